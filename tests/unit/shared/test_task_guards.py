"""Guards: what is let in, and that a stream never shows what the whole answer would not."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.task import Guard
from shared.task.guards import OutputGuard, Refused, guard_input
from shared.text import pii

MASK = {"action": "mask"}
REFUSE = {"action": "refuse"}
TEXTS = [
    "联系电话13800138000谢谢，邮箱zhang.san@mail.example.com.cn。再见",
    "Call +1 (415) 555-2671 or 010-62345678 ext. 123, ok? mail a@b.co.",
    "身份证11010519491231002X，电话是62345678元，电话是62345678。",
    "plain text, nothing 12 in it: 3.5% of 13800138000元 is 1.2.3",
    "（010）62345678；１３８００１３８０００",
]


def streamed(guard: Guard, pieces: Iterable[str]) -> tuple[list[str], str | None]:
    out = OutputGuard(guard)
    shown = [out.push(piece) for piece in pieces]
    return [*shown, out.end()], out.refused


@pytest.mark.parametrize(
    ("guard", "text", "named"),
    [
        ({"min_chars": 5}, "hi", "input.min_chars"),
        ({"max_chars": 5}, "hello there", "input.max_chars"),
        ({"languages": ["zh"]}, "hello there", "input.languages"),
        ({"languages": ["en"]}, "你好，请问", "input.languages"),
        ({"languages": ["zh", "en"]}, "こんにちは、元気ですか", "input.languages"),
        ({"blocked": ["x", "(?i)secret"]}, "my SECRET", "input.blocked"),
        ({"pii": REFUSE}, "电话13800138000", "input.pii"),
    ],
)
def test_a_refusal_names_the_guard_and_the_place_and_no_text(
    guard: dict[str, Any], text: str, named: str
) -> None:
    with pytest.raises(Refused, match=named) as caught:
        guard_input(Guard.model_validate(guard), [("variables.text", text)])
    assert (caught.value.code, caught.value.param) == ("content_filter", "variables.text")
    assert text not in caught.value.message


def test_personal_data_are_masked_in_every_text_and_the_rest_stays() -> None:
    guard = Guard.model_validate({"pii": MASK, "languages": ["zh", "en"], "max_chars": 100})
    said = guard_input(guard, [("a", "电话13800138000"), ("b", "call me"), ("c", "a@b.co")])
    assert said == ["电话[PHONE]", "call me", "[EMAIL]"]


@given(st.sampled_from(TEXTS), st.lists(st.integers(0, 70)))
def test_a_stream_in_any_pieces_is_masked_as_the_whole_is(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    shown, refused = streamed(Guard.model_validate({"pii": MASK}), pieces)
    assert ("".join(shown), refused) == (pii.mask(text)[0], None)


def test_a_stream_holds_back_only_what_may_become_personal_data() -> None:
    shown, _ = streamed(Guard.model_validate({"pii": MASK}), "你好，电话13800138000谢谢")
    assert shown == [*"你好，电话", *[""] * 11, "[PHONE]谢", "谢", ""]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_blocked_text_ends_the_stream_before_its_first_character(size: int) -> None:
    guard = Guard.model_validate({"blocked": [r"(?i)\bkill\b"]})
    text = "skills and killers, then KILL him"
    shown, refused = streamed(guard, [text[i : i + size] for i in range(0, len(text), size)])
    assert refused == "output.blocked"
    assert "skills and killers, then ".startswith("".join(shown))
    assert size == 100 or len("".join(shown)) > 15


def test_a_text_that_only_ends_like_a_blocked_one_is_whole() -> None:
    guard = Guard.model_validate({"blocked": [r"\bkill\b"]})
    shown, refused = streamed(guard, "he has skills")
    assert ("".join(shown), refused) == ("he has skills", None)


@pytest.mark.parametrize(
    ("guard", "text", "shown", "named"),
    [
        ({"max_chars": 5}, "abcdefgh", "abcde", "output.max_chars"),
        ({"max_chars": 8, "pii": MASK}, "call 13800138000 now", "call ", "output.max_chars"),
        ({"min_chars": 5}, "abc", "", "output.min_chars"),
        ({"min_chars": 3}, "abcd", "abcd", None),
        ({"languages": ["zh"]}, "hello there", "", "output.languages"),
        ({"languages": ["zh"]}, "你好，世界", "你好，世界", None),
        ({"pii": REFUSE}, "邮箱：a@b.co。再见", "邮箱：", "output.pii"),
        ({"pii": REFUSE}, "共3件，1元", "共3件，1元", None),
    ],
)
def test_the_output_guards_show_what_came_before_and_name_themselves(
    guard: dict[str, Any], text: str, shown: str, named: str | None
) -> None:
    made = Guard.model_validate(guard)
    for pieces in (text, [text]):
        pieces_shown, refused = streamed(made, pieces)
        assert ("".join(pieces_shown), refused) == (shown, named)


def test_what_is_held_for_its_length_is_still_looked_through() -> None:
    size = 300
    guard = Guard.model_validate({"min_chars": size, "blocked": ["secret"], "pii": MASK})
    clean = "a@b.co " + "word " * 80
    shown, refused = streamed(guard, clean)
    assert ("".join(shown), refused) == (clean.replace("a@b.co", "[EMAIL]"), None)
    assert set(shown[: size - 1]) == {""}
    shown, refused = streamed(guard, "a secret " + "word " * 80)
    assert ("".join(shown), refused) == ("", "output.blocked")


def test_a_language_is_known_from_its_first_two_hundred_characters() -> None:
    out = OutputGuard(Guard.model_validate({"languages": ["en"]}))
    assert out.push("word " * 39) == ""
    assert out.push("word " * 2) == "word " * 41
    assert (out.push("你好" * 400), out.end(), out.refused) == ("你好" * 400, "", None)
