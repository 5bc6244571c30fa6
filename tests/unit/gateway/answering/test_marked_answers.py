"""Labels in an answer as it grows: once a choice, whole and streamed alike, and none where there is no text."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.answering.answers import Answer
from shared.contracts import answers
from shared.contracts.marking import Marking

USAGE = {"prompt_tokens": 5, "completion_tokens": 4, "cached_tokens": 0}
TOKENS = [
    {"choice": 0, "text": "三天", "tokens": 1},
    {"choice": 1, "text": "Three", "tokens": 1},
    {"choice": 1, "text": " days", "tokens": 1, "finish_reason": "stop"},
]
WHOLE = {
    "choices": [
        {"text": "三天到账", "finish_reason": "length"},
        {"text": "Three days", "finish_reason": "stop"},
    ],
    "usage": USAGE,
}


def streamed(
    marking: Marking | None, tokens: list[dict[str, Any]], done: dict[str, Any]
) -> tuple[Any, list[Any]]:
    """(text of each choice as a client puts it together, the chunks)."""
    answer = Answer(answers.CHAT, "m", marking=marking)
    chunks = [*answer.opening(), *(answer.token(token) for token in tokens), *answer.done(done)]
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"].get("content") or "")
    return texts, chunks


@pytest.mark.parametrize("place", ["start", "end"])
def test_a_streamed_answer_and_a_whole_one_are_labelled_alike(place: Any) -> None:
    marking = Marking(mode="visible", place=place)
    texts, chunks = streamed(marking, TOKENS, WHOLE)
    answer = Answer(answers.CHAT, "m", marking=marking)
    list(answer.done(WHOLE))
    whole = answer.whole()
    assert list(texts.values()) == [choice["message"]["content"] for choice in whole["choices"]]
    expected = ["三天到账（AI生成）", "Three days (AI-generated)"]
    if place == "start":
        expected = [f"（AI生成 / AI-generated）\n{text}" for text in ("三天到账", "Three days")]
    assert list(texts.values()) == expected
    ends = [chunk for chunk in chunks if any(choice["finish_reason"] for choice in chunk["choices"])]
    assert [chunk["heliu"]["AIGC"]["ProduceID"] for chunk in ends] == [chunks[0]["id"]] * 2
    assert whole["heliu"]["AIGC"]["ProduceID"] == answer.id


def test_an_answer_without_text_has_no_label() -> None:
    done = {"choices": [{"text": "", "finish_reason": "content_filter"}], "usage": USAGE}
    for place in ("start", "end"):
        texts, _ = streamed(Marking(mode="visible", place=place), [], done)  # type: ignore[arg-type]
        assert texts == {0: ""}


def test_metadata_alone_change_no_text() -> None:
    texts, chunks = streamed(Marking(mode="metadata"), TOKENS, WHOLE)
    assert list(texts.values()) == ["三天到账", "Three days"]
    assert sum("heliu" in chunk for chunk in chunks) == 2


def test_an_unmarked_answer_is_as_it_was() -> None:
    texts, chunks = streamed(None, TOKENS, WHOLE)
    assert list(texts.values()) == ["三天到账", "Three days"]
    assert not any("heliu" in chunk for chunk in chunks)
