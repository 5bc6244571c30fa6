"""What may be served is told what it is; what may not is refused with the reason, and never read as code."""

from __future__ import annotations

import json
import pickle
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BloomConfig, BloomForCausalLM

from services.inference.importing import check
from services.inference.inspection import inspect
from shared.errors import HeliuError
from shared.stop import ChildCrashed, Stop, Stopped
from tests.unit.inference.tiny_encoders import save_encoder
from tests.unit.inference.tiny_models import build_tokenizer, save_adapter, save_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, a Qwen2 folder, and `adapter`, a LoRA of it. Do not change it."""
    root = tmp_path_factory.mktemp("made")
    save_model(root / "base", "qwen2")
    save_adapter(root / "adapter", root / "base", "qwen2")
    # PEFT writes a model card beside it, which is not taken in.
    (root / "adapter" / "README.md").unlink()
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the base that a test may spoil."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in (made / "base").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refusal(folder: Path, kind: str | None = None, base: Path | None = None, **options: Any) -> HeliuError:
    with pytest.raises(HeliuError) as caught:
        inspect(str(folder), kind=kind, base=str(base) if base else None, **options)
    return caught.value


class Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.trace,))


def test_a_base_is_told_what_it_is(made: Path) -> None:
    found = inspect(str(made / "base"), kind=None, base=None)
    info = found["info"]
    assert (found["kind"], found["warnings"]) == ("base", [])
    assert (info["architecture"], info["family"], info["dtype"]) == ("Qwen2ForCausalLM", "qwen2", "F32")
    assert (info["context_length"], info["chat_template"], info["tokenizer"]) == (256, True, True)
    weights = load_file(made / "base" / "model.safetensors")
    assert info["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert info["bytes"] == sum(file.stat().st_size for file in (made / "base").iterdir())


def test_decoding_settings_are_told_refused_by_name_or_said_to_have_no_effect(
    made: Path, folder: Path, tmp_path: Path
) -> None:
    assert inspect(str(folder), kind=None, base=None)["info"]["decoding"] == {}
    edit(folder / "generation_config.json", do_sample=True, temperature=0.6, max_new_tokens=64, num_beams=4)
    found = inspect(str(folder), kind=None, base=None)
    assert found["info"]["decoding"] == {"temperature": 0.6, "max_tokens": 64}
    assert found["warnings"] == ["generation_config.json sets num_beams, which this platform does not apply"]
    # An adapter that says nothing decodes as its base.
    assert not (made / "adapter" / "generation_config.json").exists()
    told = inspect(str(made / "adapter"), kind=None, base=str(folder))["info"]
    assert told["decoding"] == {"temperature": 0.6, "max_tokens": 64}
    edit(folder / "generation_config.json", temperature=70)
    refused = refusal(folder)
    assert (refused.code, refused.param) == ("model_unreadable", "temperature")
    assert "generation_config.json has temperature=70; it is from 0 to 2" in refused.message


def test_an_adapter_is_laid_over_its_base_and_refused_by_another(made: Path, tmp_path: Path) -> None:
    info = inspect(str(made / "adapter"), kind=None, base=str(made / "base"))["info"]
    assert (info["rank"], info["architecture"]) == (4, "LoRA on Qwen2ForCausalLM")
    wider = save_model(tmp_path / "wider", "qwen2", hidden_size=48)
    assert "trained on another base" in refusal(made / "adapter", base=wider).message
    other = save_model(tmp_path / "gpt2", "gpt2")
    assert "which this base does not have" in refusal(made / "adapter", base=other).message
    assert "needs the name of the base" in refusal(made / "adapter").message


def test_what_is_too_large_to_try_is_laid_over_its_shapes(folder: Path) -> None:
    found = inspect(str(folder), kind=None, base=None, real_bytes=0)
    assert "only their shapes were checked" in found["warnings"][0]
    tensors = load_file(folder / "model.safetensors")
    gone = dict(tensors)
    del gone["model.layers.1.self_attn.q_proj.weight"]
    save_file(gone, folder / "model.safetensors", metadata={"format": "pt"})
    assert "q_proj" in refusal(folder, real_bytes=0).message
    bent = {**tensors, "model.norm.weight": torch.zeros(7)}
    save_file(bent, folder / "model.safetensors", metadata={"format": "pt"})
    assert refusal(folder, real_bytes=0).code == "model_unreadable"


@pytest.mark.parametrize("name", ["vocab.json", "model-00002-of-00002.safetensors", "notes.txt"])
def test_a_pickle_under_another_name_is_refused_and_never_read(
    folder: Path, tmp_path: Path, name: str
) -> None:
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    error = refusal(folder)
    assert (error.code, name in error.message) == ("model_unsafe", True)
    torch.save({"a": torch.zeros(2)}, folder / name)
    assert refusal(folder).code == "model_unsafe"
    assert not (tmp_path / "trace").exists()


def header(**entries: object) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no whole safetensors file"),
        (struct.pack("<Q", 2**62) + b"{}", "should have 4611686018427387904 bytes"),
        (struct.pack("<Q", 2) + b"[]", "no JSON object"),
        (struct.pack("<Q", 2) + b"{}", "holds 0 tensors"),
        (header(a={"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}) + b"abcd", "of shape"),
        (header(a={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}) + b"abcd", "of shape"),
        (header(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}) + b"ab", "cut or has something"),
        (
            header(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}) + b"abcdMZ",
            "cut or has something",
        ),
        (header(a={"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 4]}) + b"abcd", "does not describe"),
        (header(a=7), "does not describe"),
    ],
)
def test_weights_that_claim_what_they_do_not_hold_are_refused(
    folder: Path, content: bytes, says: str
) -> None:
    (folder / "model.safetensors").write_bytes(content)
    error = refusal(folder)
    assert (error.code, says in error.message) == ("model_unreadable", True), error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("hidden_size", 0),
        ("vocab_size", 10**12),
        ("num_attention_heads", 10**7),
    ],
)
def test_absurd_numbers_are_refused_before_a_model_is_made_of_them(
    folder: Path, name: str, value: int
) -> None:
    edit(folder / "config.json", **{name: value})
    error = refusal(folder)
    assert error.code == "model_unsupported", error.message


def test_absurd_numbers_under_an_architectures_own_names_are_refused_too(tmp_path: Path) -> None:
    gpt2 = save_model(tmp_path / "gpt2", "gpt2")
    edit(gpt2 / "config.json", n_layer=10**9)
    assert refusal(gpt2).code == "model_unsupported"


def test_code_of_its_own_and_unknown_architectures_are_refused(folder: Path, tmp_path: Path) -> None:
    bloom = tmp_path / "bloom"
    BloomForCausalLM(BloomConfig(vocab_size=320, hidden_size=32, n_layer=1, n_head=2)).save_pretrained(bloom)
    assert refusal(bloom).code == "model_unsupported"
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    assert "auto_map" in refusal(folder).message


def test_a_tokenizer_that_says_more_than_the_model_knows_is_refused(folder: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([f"<extra-{n}>" for n in range(200)])
    tokenizer.save_pretrained(folder)
    assert "embeds 320" in refusal(folder).message


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}{{ m['content'] }}", "no valid Jinja"),
        ("{{ messages.__class__.__mro__ }}", "sandbox refuses"),
        ("{% for i in range(10**9) %}x{% endfor %}", "sandbox refuses"),
    ],
)
def test_a_template_that_can_never_work_is_refused(folder: Path, template: str, says: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    error = refusal(folder)
    assert says in error.message, error.message


def test_a_missing_or_choosy_template_and_a_missing_tokenizer_are_warnings(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('a system message comes first') }}")
    assert "a system message comes first" in inspect(str(folder), kind=None, base=None)["warnings"][0]
    (folder / "chat_template.jinja").unlink()
    found = inspect(str(folder), kind=None, base=None)
    assert found["info"]["chat_template"] is False
    assert "no chat template" in found["warnings"][0]
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer" in inspect(str(folder), kind=None, base=None)["warnings"][0]


def test_an_encoder_is_known_by_its_architecture(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(tmp_path)
    build_tokenizer(chat=False).save_pretrained(tmp_path)
    found = inspect(str(tmp_path), kind=None, base=None)
    assert (found["kind"], found["info"]["dimensions"]) == ("encoder", 16)


def test_an_encoder_is_tried_as_the_engine_will_run_it(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "good", "roberta", longest=40)
    info = inspect(str(folder), kind=None, base=None)["info"]
    assert (info["dimensions"], info["context_length"], info["architecture"]) == (32, 40, "RobertaModel")
    wrong = save_encoder(tmp_path / "wrong", pooling="max_tokens")
    with pytest.raises(HeliuError, match="max_tokens"):
        inspect(str(wrong), kind=None, base=None)


class Watched:
    """A job that may be asked to stop."""

    def __init__(self, reason: Stop | None = None) -> None:
        self.asked = threading.Event()
        self.reason = reason
        if reason is not None:
            self.asked.set()

    def check(self) -> None:
        return

    def touch(self) -> None:
        return


def test_the_check_runs_in_a_process_of_its_own_that_can_be_stopped(made: Path, folder: Path) -> None:
    found = check(Watched(), made / "base", kind=None, base=None, threads=1)
    assert (found["kind"], found["info"]["family"]) == ("base", "qwen2")
    (folder / "config.json").write_text("{")
    with pytest.raises(HeliuError, match="not readable JSON") as caught:
        check(Watched(), folder, kind=None, base=None, threads=1)
    assert caught.value.code == "model_unreadable"
    with pytest.raises(Stopped):
        check(Watched(Stop.CANCEL), made / "base", kind=None, base=None, threads=1)
    with pytest.raises(ChildCrashed):
        check(Watched(), folder, kind=None, base=None, threads=1, module="no.such.module")
