"""The engine against what a trainer left: what was changed behind its back does not pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.inference.parity import ParityFailed, compare
from services.training import parity
from services.training.dataset import Message
from services.training.model_folder import load_adapter, load_base, save_adapter
from services.training.parity import Sample, leave_samples
from tests.unit.inference import tiny_models

CPU = torch.device("cpu")
ROWS = (
    Sample(
        (Message("user", "Where is my order?"), Message("assistant", "Please check the tracking number."))
    ),
    Sample(
        (Message("system", "您好"), Message("user", "请问"), Message("assistant", "请稍等，我帮您查询。"))
    ),
    Sample(text="My order has not arrived yet. 我的订单还没有到。"),
)


def _left(folder: Path, base: Path, adapter: Path | None = None, rows: tuple[Sample, ...] = ROWS) -> Path:
    """What a trainer of this model leaves in `folder`."""
    model: Any
    model, tokenizer = load_base(base, CPU)
    if adapter is not None:
        model = load_adapter(model, adapter)
        save_adapter(model, tokenizer, adapter)
    leave_samples(model, tokenizer, rows, folder)
    return folder / "parity"


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_engine_gives_the_logits_of_every_family_and_its_adapters(tmp_path: Path, family: str) -> None:
    base = tiny_models.save_model(tmp_path / "base", family)
    found = compare(base, None, _left(tmp_path / "a", base))
    assert found["parity"] == {**found["parity"], "rows": 4, "passed": True}
    assert found["parity"]["max_abs_difference"] < found["parity"]["tolerance"] / 10
    adapter = tiny_models.save_adapter(tmp_path / "adapter", base, family)
    samples = _left(tmp_path / "b", base, adapter)
    found = compare(adapter, base, samples)
    assert found["parity"]["passed"]
    assert found["pinned"]["stop_tokens"] == [2]
    assert {"adapter_config.json", "chat_template.jinja", "generation_config.json"} <= set(found["pinned"])
    # The base alone answers something else.
    with pytest.raises(ParityFailed, match="logits differ"):
        compare(base, None, samples)


def _reweigh(folder: Path, name: str) -> None:
    weights = load_file(folder / name)
    first = next(key for key in sorted(weights) if "o_proj" in key)
    weights[first] = weights[first] * 1.05
    save_file(weights, folder / name, {"format": "pt"})


def _edit(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    told = json.loads((folder / name).read_text(encoding="utf-8"))
    change(told)
    (folder / name).write_text(json.dumps(told), encoding="utf-8")


def _retemplate(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text("Be brief." + path.read_text(encoding="utf-8"), encoding="utf-8")


def _retokenise(folder: Path) -> None:
    _edit(folder, "tokenizer.json", lambda told: told["model"]["merges"].clear())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda base, _: _reweigh(base, "model.safetensors"), "logits differ from the trainer's by"),
        (lambda _, adapter: _reweigh(adapter, "adapter_model.safetensors"), "logits differ"),
        (
            lambda _, adapter: _edit(adapter, "adapter_config.json", lambda c: c.update(lora_alpha=9)),
            "logits differ",
        ),
        (lambda _, adapter: _retemplate(adapter), "the chat template that would be served"),
        (lambda _, adapter: _retokenise(adapter), "the tokenizer or the template has changed"),
        (
            lambda _, adapter: _edit(
                adapter, "generation_config.json", lambda c: c.update(eos_token_id=[2, 7])
            ),
            r"answers would end at the tokens \[2, 7\], and ended in training at \[2\]",
        ),
        (
            lambda _, adapter: _edit(adapter, "generation_config.json", lambda c: c.update(temperature=0.5)),
            "answers would be decoded by temperature=0.5, and the job pins nothing of the model's own",
        ),
    ],
)
def test_a_planted_change_does_not_pass(
    tmp_path: Path, change: Callable[[Path, Path], None], why: str
) -> None:
    base = tiny_models.save_model(tmp_path / "base")
    adapter = tiny_models.save_adapter(tmp_path / "adapter", base)
    samples = _left(tmp_path, base, adapter)
    assert compare(adapter, base, samples)["parity"]["passed"]
    change(base, adapter)
    with pytest.raises(ParityFailed, match=why) as caught:
        compare(adapter, base, samples)
    assert (caught.value.code, caught.value.retryable) == ("parity_check_failed", False)


def test_what_a_trainer_puts_around_the_call_is_not_measured(tmp_path: Path) -> None:
    """In 16 bits around weights in 32, as on a GPU, the logits are others than those of what is saved."""
    base = tiny_models.save_model(tmp_path / "base")
    model, tokenizer = load_base(base, CPU)
    plain = model.forward

    def rounded(**given: Any) -> Any:
        found = plain(**given)
        found.logits = found.logits.bfloat16().float()
        return found

    model.forward = rounded
    leave_samples(model, tokenizer, ROWS, tmp_path)
    assert compare(base, None, tmp_path / "parity")["parity"]["max_abs_difference"] < 1e-4


def test_an_adapter_without_a_tokenizer_is_read_with_its_bases(tmp_path: Path) -> None:
    base = tiny_models.save_model(tmp_path / "base")
    adapter = tiny_models.save_adapter(tmp_path / "adapter", base)
    samples = _left(tmp_path, base, adapter)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (adapter / name).unlink()
    assert compare(adapter, base, samples)["parity"]["passed"]


def test_rows_that_a_client_could_not_send_are_left_out(tmp_path: Path) -> None:
    """The engine takes signs of the template in a user's text for plain text, and long rows cost memory."""
    base = tiny_models.save_model(tmp_path / "base")
    forged = Sample((Message("user", "<|im_end|>"), Message("assistant", "no")))
    long = Sample((Message("user", "order " * parity.LONGEST), Message("assistant", "no")))
    samples = _left(tmp_path, base, rows=(forged, long, Sample(text="")))
    told = json.loads((samples / "samples.json").read_text(encoding="utf-8"))
    assert len(told["rows"]) == 1
    assert compare(base, None, samples)["parity"]["rows"] == 1


def test_a_model_that_only_completes_texts_is_checked_on_them(tmp_path: Path) -> None:
    base = tiny_models.save_model(tmp_path / "base", tokenizer=False)
    tokenizer = tiny_models.build_tokenizer(chat=False)
    tokenizer.save_pretrained(base)
    model, _ = load_base(base, CPU, chats=False)
    leave_samples(model, tokenizer, (Sample(text="Please check the tracking number and wait."),), tmp_path)
    assert compare(base, None, tmp_path / "parity")["parity"]["rows"] == 1
    _edit(tmp_path / "parity", "samples.json", lambda told: told["rows"][0].update(prompt=3))
    with pytest.raises(ParityFailed, match="row 0 of the sample is"):
        compare(base, None, tmp_path / "parity")
