"""Text comes in whole characters and never goes past a stop string."""

from __future__ import annotations

import random

import pytest

from services.inference.engine.detokenize import Detokenizer
from tests.unit.inference.tiny_models import build_tokenizer


def decode_bytes(tokens: list[int]) -> str:
    """A tokenizer of single bytes."""
    return bytes(tokens).decode("utf-8", "replace")


def feed(text: Detokenizer, tokens: list[int]) -> list[str]:
    pieces = []
    for token in tokens:
        piece = text.push([token])
        pieces.append(piece.text)
        if piece.stopped:
            return pieces
    return [*pieces, text.finish().text]


def test_a_character_of_several_tokens_comes_whole() -> None:
    pieces = feed(Detokenizer(decode_bytes), list("合流🌊ok".encode()))
    assert [piece for piece in pieces if piece] == ["合", "流", "🌊", "o", "k"]


def test_bytes_cut_at_the_end_become_a_replacement_character() -> None:
    assert feed(Detokenizer(decode_bytes), list("合".encode())[:2])[-1] == "\ufffd"


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_joined_are_what_decoding_them_at_once_gives(seed: int) -> None:
    source = random.Random(seed)
    tokens = [source.choice([source.randrange(256), source.randrange(128)]) for _ in range(300)]
    assert "".join(feed(Detokenizer(decode_bytes), tokens)) == decode_bytes(tokens)


@pytest.mark.parametrize("seed", range(5))
def test_any_tokens_of_a_byte_level_tokenizer_joined_are_what_it_decodes_at_once(seed: int) -> None:
    tokenizer = build_tokenizer()
    source = random.Random(seed)
    tokens = [source.randrange(len(tokenizer)) for _ in range(200)]

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    assert "".join(feed(Detokenizer(decode), tokens)) == decode(tokens)


def test_text_ends_before_the_first_stop_string() -> None:
    text = Detokenizer(decode_bytes, ("###", "END"))
    assert "".join(feed(text, list(b"answer END ###"))) == "answer "
    assert text.text == "answer "


def test_what_may_become_a_stop_string_is_held_back() -> None:
    text = Detokenizer(decode_bytes, ("###",))
    assert [text.push([byte]).text for byte in b"a##b"] == ["a", "", "", "##b"]


def test_held_characters_come_when_the_text_ends_without_the_stop_string() -> None:
    text = Detokenizer(decode_bytes, ("###",))
    assert text.push(list(b"a##")).text == "a"
    assert text.finish().text == "##"


def test_a_stop_string_of_chinese_works_across_tokens() -> None:
    text = Detokenizer(decode_bytes, ("结束",))
    assert "".join(feed(text, list("好的结束了".encode()))) == "好的"
