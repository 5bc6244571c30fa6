"""Whether a canary loses its share of the callers: its rule against what its answers came to. Pure; knows no SQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.contracts.model_registry import CanaryRule


@dataclass(frozen=True)
class Answered:
    """What a canary's answers came to since it was started; times in seconds, None where nothing was measured."""

    answers: int
    errors: int
    seconds_p95: float | None
    first_token_p95: float | None
    since: datetime

    @property
    def error_rate(self) -> float:
        return self.errors / self.answers if self.answers else 0.0


def stops(rule: CanaryRule, seen: Answered) -> list[str]:
    """What of the rule is broken, a sentence each; nothing while there are too few answers to say so."""
    if seen.answers < rule.min_requests:
        return []
    found, limits, whole = [], rule.stop_when, seen.answers - seen.errors
    if limits.error_rate_above is not None and seen.error_rate > limits.error_rate_above:
        found.append(
            f"{seen.error_rate:.1%} of {seen.answers} answers failed, more than {limits.error_rate_above:.1%}"
        )
    for what, measured, limit in (
        ("were whole", seen.seconds_p95, limits.latency_p95_above_ms),
        ("began", seen.first_token_p95, limits.first_token_p95_above_ms),
    ):
        if limit is None or measured is None or whole < rule.min_requests:
            continue
        if measured * 1000 > limit:
            found.append(
                f"95% of {whole} answers {what} within {measured * 1000:.0f} ms, later than {limit:g} ms"
            )
    return found


def told(rule: CanaryRule, seen: Answered) -> dict[str, Any]:
    """The numbers, as history and webhooks have them."""
    return {
        "answers": seen.answers,
        "errors": seen.errors,
        "error_rate": round(seen.error_rate, 6),
        "latency_p95_ms": _ms(seen.seconds_p95),
        "first_token_p95_ms": _ms(seen.first_token_p95),
        "since": int(seen.since.timestamp()),
        "rule": rule.model_dump(mode="json", exclude_none=True),
    }


def _ms(seconds: float | None) -> float | None:
    return round(seconds * 1000, 1) if seconds is not None else None
