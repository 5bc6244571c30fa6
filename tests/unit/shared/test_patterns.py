"""A tenant's own regular expressions: what is refused, and that none can run away."""

from __future__ import annotations

import pytest

from shared.errors import InvalidInput
from shared.text.patterns import Patterns, check_pattern, check_patterns


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a+b", "more than 256"),
        ("(a{1,50}){1,50}", "more than 256"),
        ("a*", "empty text"),
        ("", "empty text"),
        ("a|", "empty text"),
        ("^a", "anywhere"),
        (r"a\Z", "anywhere"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "back references"),
        ("(", "no regular expression"),
        ("(?:a?b?c?d?e?){0,50}" * 3 + "x", "more than"),
        (r"\w{100}", r"\\w, \\d and \\s as 8"),
    ],
)
def test_what_is_unsafe_or_unbounded_is_refused_with_its_place(pattern: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        check_pattern(pattern, "spec.guards.input.blocked[0]")
    assert (caught.value.param, caught.value.code) == ("spec.guards.input.blocked[0]", "invalid_pattern")


def test_patterns_have_a_bound_together_too() -> None:
    check_patterns([r"\w{40}"] * 3, "blocked")
    with pytest.raises(InvalidInput, match="together") as caught:
        check_patterns([r"\w{40}"] * 4, "blocked")
    assert caught.value.param == "blocked"


def test_a_pattern_that_backtracks_for_ever_elsewhere_answers_here() -> None:
    # 2 ** 30 ways to fail for an engine that tries them all.
    pattern = "(a?){30}(a|a){30}b"
    check_pattern(pattern, "p")
    assert Patterns([pattern]).first("a" * 20_000) is None


def test_a_growing_text_is_judged_only_where_its_next_character_is_known() -> None:
    patterns = Patterns([r"(?i)\bkill\b", "竞品[甲乙]"])
    assert patterns.width == 4
    assert patterns.first("to KILL") == 0
    assert patterns.first("to kill", growing=True) is None
    assert patterns.first("to killer", growing=True) is None
    assert patterns.first("to kill it", growing=True) == 0
    assert patterns.first("我们的竞品乙。") == 1
