"""Chunks of a text, and windows of a chunk."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.data_governance.retrieval.chunks import chunks, tokens, windows


def test_a_short_text_is_one_chunk() -> None:
    assert [chunk.text for chunk in chunks(" 你好。\n", 100, 0)] == ["你好。"]


def test_sentences_stay_whole_where_they_fit() -> None:
    text = "".join(f"这是第{n}个句子，说了一件事。" for n in range(40))
    found = [chunk.text for chunk in chunks(text, 60, 0)]
    assert all(part.endswith("。") for part in found)
    assert "".join(found) == text


def test_a_chunk_begins_with_the_end_of_the_one_before() -> None:
    text = " ".join(f"word{n}" for n in range(400))
    found = list(chunks(text, 100, 40))
    for one, other in itertools.pairwise(found):
        shared = one.start + len(one.text) - other.start
        assert shared > 0
        assert tokens(text[other.start : other.start + shared]) <= 41


def test_places_are_where_the_texts_stand() -> None:
    text = "\n\n".join(f"段落{n} " + "内容" * n for n in range(30))
    assert all(text[c.start : c.start + len(c.text)] == c.text for c in chunks(text, 50, 10))


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.sampled_from("ab 中文。，\n\t.!?x"), max_size=600),
    st.integers(4, 40),
    st.integers(0, 20),
)
def test_no_chunk_is_too_large_and_no_character_is_lost(text: str, most: int, overlap: int) -> None:
    found = list(chunks(text, most, min(overlap, most // 2)))
    assert all(tokens(chunk.text) <= most + 1 for chunk in found)
    covered = {place for chunk in found for place in range(chunk.start, chunk.start + len(chunk.text))}
    assert all(place in covered for place, char in enumerate(text) if not char.isspace())


@pytest.mark.parametrize("context", [32, 128, None])
def test_windows_are_short_enough_for_the_encoder(context: int | None) -> None:
    parts = windows("退款会在三个工作日内原路退回。" * 60, context)
    assert all(len(part) <= (context or 128) - 4 for part in parts)
    assert "".join(parts) == "退款会在三个工作日内原路退回。" * 60
