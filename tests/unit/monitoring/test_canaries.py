"""Rules of canaries against constructed answers: what stops one, and what says nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from services.monitoring.canaries import Answered, stops, told
from shared.contracts.model_registry import CanaryRule

SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def rule(**changes: Any) -> CanaryRule:
    stop_when = {"error_rate_above": 0.1, "latency_p95_above_ms": 500.0, "first_token_p95_above_ms": 100.0}
    return CanaryRule.model_validate({"stop_when": stop_when, "min_requests": 20, **changes})


def answered(
    answers: int, errors: int = 0, whole: float | None = 0.4, first: float | None = 0.05
) -> Answered:
    return Answered(answers, errors, whole, first, SINCE)


@pytest.mark.parametrize(
    ("seen", "broken"),
    [
        (answered(0, whole=None, first=None), []),
        (answered(19, errors=19), []),
        (answered(30), []),
        (answered(30, errors=3), []),
        (answered(30, errors=4), ["13.3% of 30 answers failed, more than 10.0%"]),
        (answered(30, whole=0.5), []),
        (answered(30, whole=0.7512), ["95% of 30 answers were whole within 751 ms, later than 500 ms"]),
        (answered(30, first=0.2), ["95% of 30 answers began within 200 ms, later than 100 ms"]),
        (answered(30, whole=None, first=None), []),
        # Too few were whole to say how long that takes.
        (answered(30, errors=25, whole=9.0), ["83.3% of 30 answers failed, more than 10.0%"]),
    ],
)
def test_a_canary_is_stopped_by_what_its_rule_names_and_by_enough_answers(
    seen: Answered, broken: list[str]
) -> None:
    assert stops(rule(), seen) == broken


def test_what_a_rule_does_not_name_stops_nothing() -> None:
    only_errors = rule(stop_when={"error_rate_above": 0.0})
    assert stops(only_errors, answered(30, whole=60.0, first=60.0)) == []
    assert len(stops(only_errors, answered(30, errors=1))) == 1


def test_the_numbers_are_told_with_the_rule_that_they_broke() -> None:
    figures = told(rule(), answered(30, errors=6, first=None))
    assert figures == {
        "answers": 30,
        "errors": 6,
        "error_rate": 0.2,
        "latency_p95_ms": 400.0,
        "first_token_p95_ms": None,
        "since": 1767225600,
        "rule": rule().model_dump(exclude_none=True),
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"stop_when": {}},
        {"stop_when": {"error_rate_above": 1.0}},
        {"stop_when": {"thumbs_down_above": 0.1}},
        {"share": 1.0},
        {"min_requests": 0},
    ],
)
def test_a_rule_that_could_never_stop_anything_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        rule(**wrong)
