"""Tokens are those that the model is given, told by a tokenizer that needs none of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.inference.engine.engine import Engine
from services.inference.engine.events import Failed, Finished
from services.inference.engine.loading import BrokenModel
from services.inference.engine.request import EngineConfig, ModelRef, Request, Sampling
from services.inference.engine.tokenizing import HELD, Tokenizers
from shared.errors import InvalidInput
from tests.unit.inference.tiny_encoders import save_encoder
from tests.unit.inference.tiny_models import CONTEXT, build_tokenizer, save_model

CHAT = [{"role": "user", "content": "您好"}]


def of(folder: Path) -> ModelRef:
    return ModelRef(str(folder), str(folder))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return of(save_model(tmp_path_factory.mktemp("base")))


@pytest.fixture
def tokenizers() -> Tokenizers:
    return Tokenizers(1024)


def test_a_chats_tokens_are_as_many_as_its_answer_counts(tokenizers: Tokenizers, base: ModelRef) -> None:
    tokens = tokenizers.tokenize(base, messages=CHAT)
    engine = Engine(EngineConfig(max_slots=1, kv_tokens=1024))
    (end,) = engine.generate([Request("r", base, messages=tuple(CHAT), sampling=Sampling(max_tokens=1))])
    engine.close()
    assert isinstance(end, Finished)
    assert len(tokens.ids) == end.usage.prompt_tokens
    assert tokens.texts is not None
    assert tokens.texts[0] == "<|im_start|>"
    assert tokenizers.detokenize(base, None, tokens.ids).endswith("<|im_start|>assistant\n")
    unanswered = tokenizers.tokenize(base, messages=CHAT, answered=False, texts=False)
    assert tokens.ids[: len(unanswered.ids)] == unanswered.ids
    assert len(unanswered.ids) < len(tokens.ids)
    assert unanswered.texts is None


@pytest.mark.parametrize("kv_tokens", [128, 1024])
def test_the_context_is_what_the_engine_refuses_to_pass(base: ModelRef, kv_tokens: int) -> None:
    config = EngineConfig(max_slots=1, kv_tokens=kv_tokens)
    context = Tokenizers(config.kv_capacity).tokenize(base, prompt="x").context
    assert context == min(CONTEXT, kv_tokens)
    engine = Engine(config)
    fits, over = engine.generate(
        [
            Request(str(n), base, prompt_ids=(5,) * n, sampling=Sampling(max_tokens=1))
            for n in (context - 1, context)
        ]
    )
    engine.close()
    assert isinstance(fits, Finished)
    assert isinstance(over, Failed)


def test_texts_and_bytes_come_back_as_they_were(tokenizers: Tokenizers, base: ModelRef) -> None:
    text = "订单 no. 7 — 🙂\n"
    tokens = tokenizers.tokenize(base, prompt=text)
    assert tokenizers.detokenize(base, None, tokens.ids) == text
    assert tokens.texts is not None
    assert len(tokens.texts) == len(tokens.ids)


def test_an_encoder_says_what_it_takes_and_puts_around_a_text(tokenizers: Tokenizers, tmp_path: Path) -> None:
    long = of(save_encoder(tmp_path / "roberta", "roberta"))
    short = of(save_encoder(tmp_path / "bert", longest=10))
    assert tokenizers.tokenize(long, encoder=True, prompt="x").context == 65
    assert tokenizers.tokenize(short, encoder=True, prompt="x").context == 10
    with pytest.raises(InvalidInput, match="no chat template"):
        tokenizers.tokenize(short, encoder=True, messages=CHAT)


def test_special_tokens_are_around_a_text_unless_they_are_not_wanted(
    tokenizers: Tokenizers, minilm: str
) -> None:
    model = ModelRef("m", minilm)
    whole = tokenizers.tokenize(model, encoder=True, prompt="hello")
    bare = tokenizers.tokenize(model, encoder=True, prompt="hello", special=False)
    assert (whole.texts, bare.texts, whole.context) == (["[CLS]", "hello", "[SEP]"], ["hello"], 256)


def test_an_adapters_own_tokenizer_is_used_where_it_has_one(
    tokenizers: Tokenizers, base: ModelRef, tmp_path: Path
) -> None:
    with_own, without = tmp_path / "own", tmp_path / "none"
    for folder in (with_own, without):
        folder.mkdir()
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["zzz"])
    tokenizer.save_pretrained(with_own)
    counts = [
        len(tokenizers.tokenize(base, adapter, prompt="zzz").ids)
        for adapter in (None, of(with_own), of(without))
    ]
    assert counts == [3, 1, 3]


def test_a_token_that_the_model_has_not_is_refused_at_its_place(
    tokenizers: Tokenizers, base: ModelRef
) -> None:
    with pytest.raises(InvalidInput, match="0 to 319, got 320") as caught:
        tokenizers.detokenize(base, None, [1, 2, 320])
    assert caught.value.param == "tokens[2]"


def test_a_folder_without_a_tokenizer_is_refused(tokenizers: Tokenizers, tmp_path: Path) -> None:
    with pytest.raises(BrokenModel, match="no tokenizer"):
        tokenizers.tokenize(of(save_model(tmp_path, tokenizer=False)), prompt="x")


def test_only_the_last_ones_asked_for_are_kept(
    tokenizers: Tokenizers, base: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    sound = Tokenizers._read

    def note(self: Tokenizers, path: str, *more: Any) -> Any:
        read.append(path)
        return sound(self, path, *more)

    monkeypatch.setattr(Tokenizers, "_read", note)
    for name in [*range(HELD), 0, HELD, 0, 1]:
        tokenizers.tokenize(ModelRef(str(name), base.path), prompt="x")
    assert len(read) == HELD + 2
