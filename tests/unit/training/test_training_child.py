"""The child process end to end, on a model of a few thousand weights: frames, kills, resumes, stops, scores."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.gateway.training import demands
from services.training import evaluate, losses, pretrain, sft
from services.training.dpo import planning as dpo
from services.training.encoders import run as encoder_run
from services.training.encoders.model import new_tokenizer
from services.training.heads import pace as head_pace
from services.training.run import Result, Run, Stopped
from services.training.spec import parse_spec
from services.training.tuning import planning
from shared.errors import InvalidInput
from shared.frames import Frame, read_frames, write_frame
from tests.unit.training.child_runs import kill_after_a_checkpoint

ANSWERS = {
    "退货": "请在七天内寄回，运费由我们承担。",
    "发票": "电子发票会在一天内发到邮箱。",
    "refund": "The refund arrives within three days.",
    "delivery": "Your parcel arrives on Monday.",
}
SHAPE = {"vocab_size": 400, "hidden_size": 16, "layers": 1, "heads": 2, "context_length": 96}
PRETRAIN = SHAPE | {"max_steps": 60, "batch_size": 4, "log_every": 1, "checkpoint_every": 20}
LORA = {
    "max_steps": 60,
    "batch_size": 4,
    "log_every": 1,
    "checkpoint_every": 20,
    "lora_dropout": 0.1,
    "lora_r": 4,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("data")
    dice = random.Random(3)
    out = {}
    for split, count in (("train", 60), ("validation", 12)):
        lines = []
        for _ in range(count):
            word = dice.choice(list(ANSWERS))
            turns = [
                {
                    "role": "user",
                    "content": f"{dice.choice(['你好', 'hello', '请问'])} {word} {dice.randrange(100)}",
                },
                {"role": "assistant", "content": ANSWERS[word]},
            ]
            lines.append(json.dumps({"messages": turns}, ensure_ascii=False))
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        out[split] = [str(folder / f"{split}.jsonl")]
    return out


def _spec(kind: str, folder: Path, data: dict[str, list[str]], **more: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "seed": 5,
        "workdir": str(folder / "work"),
        "output_dir": str(folder / "out"),
        "data": data,
        "threads": 1,
        **more,
    }


def _run_here(spec: dict[str, Any]) -> tuple[Result, list[Frame]]:
    """The same run in this process: the libraries are loaded once for the whole module."""
    frames: list[Frame] = []
    parsed = parse_spec(spec)
    runner = {"pretrain": pretrain.run, "sft": sft.run, "evaluate": evaluate.run}[parsed.kind]
    return runner(parsed, Run(frames.append)), frames


@contextmanager
def _child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-m", "services.training.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def _send(child: subprocess.Popen[bytes], frame: dict[str, Any]) -> None:
    assert child.stdin is not None
    write_frame(child.stdin, frame)


def _frames(child: subprocess.Popen[bytes]) -> Iterator[Frame]:
    assert child.stdout is not None
    return read_frames(child.stdout)


def _losses(frames: list[Frame]) -> dict[int, float]:
    """Training loss by step; a frame after validation repeats the loss of its step."""
    return {f["step"]: f["data"]["train_loss"] for f in frames if f["type"] == "metrics"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, data: dict[str, list[str]]) -> tuple[Result, list[Frame]]:
    return _run_here(_spec("pretrain", tmp_path_factory.mktemp("base"), data, hyperparameters=PRETRAIN))


@pytest.fixture(scope="module")
def adapter(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, list[str]], base: tuple[Result, list[Frame]]
) -> tuple[Result, list[Frame]]:
    folder = tmp_path_factory.mktemp("adapter")
    return _run_here(_spec("sft", folder, data, base_dir=base[0].output_dir, hyperparameters=LORA))


def test_pretraining_killed_and_resumed_has_the_same_losses_and_weights(
    tmp_path: Path, data: dict[str, list[str]], base: tuple[Result, list[Frame]]
) -> None:
    spec = _spec("pretrain", tmp_path, data, hyperparameters=PRETRAIN)
    checkpoint, before = kill_after_a_checkpoint(spec)
    result, after = _run_here(spec | {"resume_from": str(checkpoint)})
    whole = _losses(base[1])
    assert len(whole) == 60
    assert _losses(before) == {s: whole[s] for s in _losses(before)}
    resumed = _losses(after)
    assert resumed == {s: whole[s] for s in resumed}
    assert set(_losses(before)) | set(resumed) == set(whole)
    assert _same_weights(result, base[0], "model.safetensors")
    assert result.trained_tokens == base[0].trained_tokens


def test_lora_tuning_killed_and_resumed_has_the_same_losses_and_weights(
    tmp_path: Path,
    data: dict[str, list[str]],
    base: tuple[Result, list[Frame]],
    adapter: tuple[Result, list[Frame]],
) -> None:
    spec = _spec("sft", tmp_path, data, base_dir=base[0].output_dir, hyperparameters=LORA)
    checkpoint, before = kill_after_a_checkpoint(spec)
    result, after = _run_here(spec | {"resume_from": str(checkpoint)})
    whole = _losses(adapter[1])
    assert len(whole) == 60
    assert _losses(before) == {s: whole[s] for s in _losses(before)}
    resumed = _losses(after)
    assert resumed == {s: whole[s] for s in resumed}
    assert set(_losses(before)) | set(resumed) == set(whole)
    assert _same_weights(result, adapter[0], "adapter_model.safetensors")


def _same_weights(one: Result, other: Result, name: str) -> bool:
    first, second = load_file(Path(one.output_dir) / name), load_file(Path(other.output_dir) / name)
    return set(first) == set(second) and all(torch.equal(first[k], second[k]) for k in first)


def test_full_tuning_paused_and_resumed_has_the_same_losses(
    tmp_path: Path, data: dict[str, list[str]], base: tuple[Result, list[Frame]]
) -> None:
    wanted = {"method": "full", "max_steps": 8, "batch_size": 4, "log_every": 1}
    spec = _spec("sft", tmp_path / "a", data, base_dir=base[0].output_dir, hyperparameters=wanted)
    whole, frames = _run_here(spec)
    spec = _spec("sft", tmp_path / "b", data, base_dir=base[0].output_dir, hyperparameters=wanted)
    stopped, before = _stop_at(spec, step=3, reason="pause")
    (made,) = [f for f in before if f["type"] == "checkpoint"]
    assert 3 <= made["step"] == stopped.step < 8
    result, after = _run_here(spec | {"resume_from": made["path"]})
    assert _losses(before) | _losses(after) == _losses(frames)
    assert _same_weights(result, whole, "model.safetensors")
    assert AutoTokenizer.from_pretrained(result.output_dir).chat_template


def _stop_at(spec: dict[str, Any], step: int, reason: str) -> tuple[Stopped, list[Frame]]:
    frames: list[Frame] = []

    def emit(frame: Frame) -> None:
        frames.append(frame)
        if frame["type"] == "metrics" and frame["step"] == step:
            run.request_stop(reason)

    run = Run(emit)
    parsed = parse_spec(spec)
    with pytest.raises(Stopped) as caught:
        {"pretrain": pretrain.run, "sft": sft.run}[parsed.kind](parsed, run)
    assert caught.value.reason == reason
    return caught.value, frames


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_a_cancel_writes_no_checkpoint(
    tmp_path: Path, data: dict[str, list[str]], base: tuple[Result, list[Frame]], kind: str
) -> None:
    more = {"hyperparameters": PRETRAIN} if kind == "pretrain" else {"base_dir": base[0].output_dir}
    more.setdefault("hyperparameters", LORA)
    _, frames = _stop_at(_spec(kind, tmp_path, data, **more), step=2, reason="cancel")
    assert not any(f["type"] == "checkpoint" for f in frames)
    assert not (tmp_path / "out").exists()


def test_a_stop_frame_ends_the_child_with_a_checkpoint(tmp_path: Path, data: dict[str, list[str]]) -> None:
    long = PRETRAIN | {"max_steps": 100_000, "checkpoint_every": 100_000}
    with _child() as child:
        _send(child, _spec("pretrain", tmp_path, data, hyperparameters=long))
        frames = []
        for frame in _frames(child):
            frames.append(frame)
            if frame["type"] == "metrics" and frame["step"] == 3:
                _send(child, {"op": "stop", "reason": "pause"})
        assert child.wait() == 0
    (made,) = [f for f in frames if f["type"] == "checkpoint"]
    assert frames[-1] == {"type": "stopped", "reason": "pause", "step": made["step"]}


def test_sigterm_is_a_drain_and_a_closed_stdin_the_end(tmp_path: Path, data: dict[str, list[str]]) -> None:
    """One child for both: it is drained by SIGTERM; another dies while it still loads its libraries."""
    long = PRETRAIN | {"max_steps": 100_000, "checkpoint_every": 100_000}
    with _child() as drained, _child() as orphan:
        for child, name in ((drained, "a"), (orphan, "b")):
            _send(child, _spec("pretrain", tmp_path / name, data, hyperparameters=long))
        assert orphan.stdin is not None
        orphan.stdin.close()
        assert orphan.wait() == 3
        last: Frame = {}
        for frame in _frames(drained):
            if frame["type"] == "metrics" and last.get("type") != "metrics":
                drained.send_signal(signal.SIGTERM)
            last = frame
        assert drained.wait() == 0
    assert last["type"] == "stopped"
    assert last["reason"] == "drain"


def test_a_bad_row_is_a_typed_error_that_no_retry_mends(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "good"}\n{"text": 1}\n')
    with _child() as child:
        _send(child, _spec("pretrain", tmp_path, {"train": [str(path)]}, hyperparameters=SHAPE))
        frames = list(_frames(child))
        assert child.wait() == 1
    assert frames[-1]["type"] == "error"
    assert (frames[-1]["code"], frames[-1]["retryable"]) == ("invalid_training_file", False)
    assert frames[-1]["message"].startswith("line 2: ")


def test_a_bad_spec_is_a_typed_error_before_any_library_is_loaded() -> None:
    with _child() as child:
        _send(child, {"kind": "pretrain", "surprise": 1})
        (frame,) = _frames(child)
        assert child.wait() == 1
    assert frame["code"] == "invalid_spec"


def test_a_checkpoint_of_other_hyperparameters_is_refused(
    tmp_path: Path, data: dict[str, list[str]], base: tuple[Result, list[Frame]]
) -> None:
    path = next(f["path"] for f in reversed(base[1]) if f["type"] == "checkpoint")
    with pytest.raises(InvalidInput, match="another run"):
        _run_here(_spec("pretrain", tmp_path, data, hyperparameters=SHAPE, resume_from=path))


def test_the_run_tells_what_it_does(
    base: tuple[Result, list[Frame]], adapter: tuple[Result, list[Frame]]
) -> None:
    # Fine-tuning tells what OpenAI's checkpoints have: here all that is held out is watched.
    full = {"full_valid_loss", "full_valid_mean_token_accuracy"}
    for (_, frames), more in ((base, set()), (adapter, full)):
        names = {f["name"] for f in frames if f["type"] == "span"}
        assert {"load", "tokenise", "epoch", "eval", "checkpoint", "save"} <= names
        last = [f for f in frames if f["type"] == "metrics"][-1]
        assert set(last["data"]) == {
            "train_loss",
            "train_mean_token_accuracy",
            "valid_loss",
            "valid_mean_token_accuracy",
            "learning_rate",
            "tokens_per_second",
            "epoch",
            "total_steps",
            *more,
        }
        losses = list(_losses(frames).values())
        assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_the_gateway_estimates_steps_by_the_trainers_own_rules() -> None:
    assert demands.PRETRAIN == (pretrain.STEP_TOKENS, pretrain.TARGET_TOKENS, pretrain.MOST_EPOCHS)
    assert demands.TUNE == (planning.STEP_TOKENS, planning.SMALL_TARGET_TOKENS, planning.SMALL_MOST_EPOCHS)
    assert demands.PAIRS == (dpo.STEP_TOKENS, dpo.SMALL_TARGET_TOKENS, dpo.SMALL_MOST_EPOCHS)
    assert (demands.SMALL_MODEL, demands.MICRO_TOKENS) == (sft.SMALL_MODEL, losses.MICRO_TOKENS)
    assert (demands.HEAD_EPOCHS, demands.ENCODER_TEXTS) == (head_pace._EPOCHS, encoder_run._TEXTS)
    assert len(new_tokenizer(["Refund 退款"], 64)) == pytest.approx(demands.ENCODER_VOCABULARY, rel=0.1)


def test_the_base_folder_is_whole_and_free_of_pickles(base: tuple[Result, list[Frame]]) -> None:
    folder = Path(base[0].output_dir)
    names = {p.name for p in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in names)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert tokenizer.chat_template
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    text = "退货 refund 😀\n\t"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_adapter_folder_holds_no_path_of_this_machine(adapter: tuple[Result, list[Frame]]) -> None:
    folder = Path(adapter[0].output_dir)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert {"adapter_model.safetensors", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    assert not (folder / "README.md").exists()


def test_tuned_beats_base_on_held_out_conversations(
    tmp_path: Path,
    data: dict[str, list[str]],
    base: tuple[Result, list[Frame]],
    adapter: tuple[Result, list[Frame]],
) -> None:
    held_out = {"validation": data["validation"]}
    asked = _spec("evaluate", tmp_path, held_out, base_dir=base[0].output_dir, hyperparameters={"limit": 8})
    plain, _ = _run_here(asked)
    tuned, _ = _run_here(asked | {"adapter_dir": adapter[0].output_dir})
    assert (plain.data["n"], tuned.data["n"]) == (8, 8)
    assert tuned.data["loss"] < plain.data["loss"]
    assert tuned.data["token_accuracy"] > plain.data["token_accuracy"]
    assert tuned.data["samples"][0]["reference"] in ANSWERS.values()
    assert _run_here(asked)[0].data == plain.data
