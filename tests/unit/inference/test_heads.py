"""A head's scores are those of the model's own forward, alone and in a batch, and bad folders are refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from services.inference.engine.attention import UnsupportedModel
from services.inference.engine.engine import Engine
from services.inference.engine.events import Failed, Scored
from services.inference.engine.head import Head
from services.inference.engine.head_folder import read_head_folder
from services.inference.engine.loading import BrokenModel, UnsafeModel
from services.inference.engine.request import EngineConfig, ModelRef, Request, Scores, Vector
from services.inference.inspection import inspect
from tests.unit.inference.tiny_encoders import save_encoder
from tests.unit.inference.tiny_heads import POSITIONS, plain_logits, save_head

LABELS = ("退款", "delivery", "card")
TEXTS = ["您好", "my order has not arrived yet, please check", "a", "请稍等 " * 6]


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(EngineConfig(max_slots=4, kv_tokens=1024))
    yield made
    made.close()


def ask(engine: Engine, folder: Path, texts: list[str], **wanted: Any) -> list[Any]:
    base = ModelRef(str(folder), str(folder))
    return engine.generate(
        Request(id=str(i), base=base, prompt=text, scores=Scores(**wanted)) for i, text in enumerate(texts)
    )


@pytest.mark.parametrize("family", ["bert", "roberta", "llama"])
def test_labels_and_probabilities_are_those_of_transformers(
    engine: Engine, tmp_path: Path, family: str
) -> None:
    folder = save_head(tmp_path, family, labels=LABELS)
    for text, end in zip(TEXTS, ask(engine, folder, TEXTS, top_k=2), strict=True):
        assert isinstance(end, Scored), end
        wanted = plain_logits(folder, text).softmax(0)
        order = wanted.argsort(descending=True)[:2].tolist()
        assert [label for label, _ in end.predictions] == [LABELS[i] for i in order]
        assert [score for _, score in end.predictions] == pytest.approx(wanted[order].tolist(), abs=1e-5)
        assert end.labels is None


def test_a_head_of_several_labels_gives_each_its_own_probability(engine: Engine, tmp_path: Path) -> None:
    folder = save_head(tmp_path, labels=LABELS, problem="multi_label_classification")
    for text, end in zip(TEXTS, ask(engine, folder, TEXTS, top_k=3), strict=True):
        wanted = plain_logits(folder, text).sigmoid()
        assert dict(end.predictions) == pytest.approx(
            dict(zip(LABELS, wanted.tolist(), strict=True)), abs=1e-5
        )
        assert end.labels == tuple(label for label, p in zip(LABELS, wanted, strict=True) if p >= 0.5)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_pair_is_read_as_the_tokenizer_reads_pairs(engine: Engine, tmp_path: Path, family: str) -> None:
    folder = save_head(tmp_path, family)
    for document in TEXTS:
        (end,) = ask(engine, folder, ["你好吗"], pair=document)
        wanted = plain_logits(folder, "你好吗", document).sigmoid()
        assert end.predictions == ((None, pytest.approx(float(wanted[0]), abs=1e-5)),)
    assert inspect(str(folder), kind=None, base=None)["kind"] == "ranker"


def test_a_regression_gives_its_number(engine: Engine, tmp_path: Path) -> None:
    folder = save_head(tmp_path, problem="regression")
    (end,) = ask(engine, folder, ["hello"])
    assert end.predictions == ((None, pytest.approx(float(plain_logits(folder, "hello")[0]), abs=1e-5)),)
    assert inspect(str(folder), kind=None, base=None)["info"]["head"] == "regression"


def test_a_long_text_is_refused_or_cut_as_asked(engine: Engine, tmp_path: Path) -> None:
    folder, long = save_head(tmp_path, labels=LABELS), "订单 order " * 500
    (refused,) = ask(engine, folder, [long])
    assert isinstance(refused, Failed)
    assert (refused.code, refused.param) == ("context_length_exceeded", "prompt")
    (whole,) = ask(engine, folder, [long], truncate=-1)
    (short,) = ask(engine, folder, [long], truncate=8)
    assert (whole.tokens, short.tokens) == (POSITIONS, 8)


def test_the_same_folder_is_an_encoder_and_a_head_at_once(engine: Engine, tmp_path: Path) -> None:
    folder = save_head(tmp_path, labels=LABELS)
    base = ModelRef("both", str(folder))
    vector, scores = engine.generate(
        [
            Request(id="v", base=base, prompt="hello", vector=Vector(encoder=True)),
            Request(id="s", base=base, prompt="hello", scores=Scores(top_k=3)),
        ]
    )
    assert len(vector.vector) == 32 * 4  # type: ignore[union-attr]
    assert len(scores.predictions) == 3  # type: ignore[union-attr]
    engine.unload_base("both")
    assert engine.stats().encoders == []


def _changed(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "kind", "error", "said"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, None, BrokenModel, "id2label lacks '1'"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, None, BrokenModel, "differ"),
        ({"problem_type": "poetry"}, None, UnsupportedModel, "'poetry'"),
        ({"auto_map": {"AutoModel": "x.py"}}, None, UnsafeModel, "code of its own"),
        ({}, "ranker", UnsupportedModel, "is a classifier"),
        ({"hidden_size": 10**9}, None, UnsupportedModel, "hidden_size"),
        ({"num_hidden_layers": 3}, None, BrokenModel, "lacks"),
    ],
)
def test_a_folder_that_cannot_be_served_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], kind: str | None, error: type[Exception], said: str
) -> None:
    folder = _changed(save_head(tmp_path, labels=LABELS), **changes)
    with pytest.raises(error, match=said):
        inspect(str(folder), kind=kind, base=None)


def test_an_encoder_is_no_classifier_and_a_torn_layer_no_head(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "e", modules=False)
    with pytest.raises(UnsupportedModel, match=r"no head\.json"):
        inspect(str(folder), kind="classifier", base=None)
    told = {"format": 1, "head": "single_label", "labels": list(LABELS), "pooling": "mean", "max_length": 9}
    (folder / "head.json").write_text(json.dumps(told))
    assert read_head_folder(folder).labels == LABELS
    with pytest.raises(BrokenModel, match=r"head\.safetensors"):
        Head.load(str(folder), dtype="float32", device="cpu")
    torch.save({}, folder / "head.bin")
    with pytest.raises(UnsafeModel):
        Head.load(str(folder), dtype="float32", device="cpu")
