"""Alert rules as data, and the decision what to raise and what to resolve. Pure; knows no SQL.

A file (YAML or JSON) may change any rule by name, switch it off, or add one:

    rules:
      error_rate: {threshold: 0.02, minimum: 100}
      worker_silent: {enabled: false}
      slow_batches: {measure: queue_age, match: ["inference.*.batch"], threshold: 3600}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any, Literal
from uuid import UUID

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ConfigurationError

Measure = Literal["error_rate", "queue_age", "worker_silent", "dead_jobs"]
CLEAR = 0.8


class Rule(BaseModel):
    """Raise when `measure` of a subject that matches reaches `threshold` over at least `minimum` samples.

    error_rate: share of failed answers, subject `tenant/model`. queue_age: seconds that the oldest job that could
    run has waited, subject the queue. worker_silent: seconds since the last report of a worker that was heard of in
    the window, subject its name. dead_jobs: jobs that used up their attempts, subject `tenant/kind`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=64)
    measure: Measure
    threshold: float = Field(gt=0)
    minimum: int = Field(1, ge=1)
    window_s: float = Field(300.0, ge=60, le=86_400)
    match: tuple[str, ...] = ("*",)
    severity: Literal["warning", "critical"] = "warning"
    enabled: bool = True
    # Of an error rate: whether a version of a registered model that gets a share of the callers loses it.
    ends_canary: bool = False

    @property
    def window(self) -> timedelta:
        return timedelta(seconds=self.window_s)

    def matches(self, subject: str) -> bool:
        return any(fnmatchcase(subject, pattern) for pattern in self.match)


RULES = (
    Rule(
        name="error_rate",
        measure="error_rate",
        threshold=0.1,
        minimum=20,
        severity="critical",
        ends_canary=True,
    ),
    Rule(
        name="queue_age",
        measure="queue_age",
        threshold=300,
        match=("data", "data.*", "inference.*", "monitoring"),
    ),
    # A job that waits for a GPU is the normal state of a training queue.
    Rule(name="training_queue_age", measure="queue_age", threshold=6 * 3600, match=("training.*",)),
    # A worker that never comes back, since its pod or machine has gone for good, is news for an hour only.
    Rule(name="worker_silent", measure="worker_silent", threshold=30, window_s=3600, severity="critical"),
    Rule(name="dead_jobs", measure="dead_jobs", threshold=1, window_s=3600),
)


@dataclass(frozen=True)
class Observation:
    """One measured subject. `tenant` None is the platform's own; `traces` are examples to look at."""

    subject: str
    value: float
    samples: int = 1
    tenant: UUID | None = None
    traces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Open:
    """An alert that stands."""

    id: str
    rule: str
    subject: str


@dataclass(frozen=True)
class Decision:
    """What a sweep changes: observations to raise by their rule, and alerts to resolve."""

    raised: tuple[tuple[Rule, Observation], ...]
    resolved: tuple[Open, ...]


def decide(measured: Mapping[Rule, Sequence[Observation]], standing: Sequence[Open]) -> Decision:
    """Compare what was measured with what stands.

    An alert stays until its value is under CLEAR of the threshold, so that one at the border does not flap; a
    subject that is no longer seen, or a rule that is gone, resolves it.
    """
    held = {(alert.rule, alert.subject) for alert in standing}
    raised: list[tuple[Rule, Observation]] = []
    keep: set[tuple[str, str]] = set()
    for rule, observations in measured.items():
        for seen in observations:
            if not rule.matches(seen.subject) or seen.samples < rule.minimum:
                continue
            key = (rule.name, seen.subject)
            if seen.value >= rule.threshold and key not in held:
                raised.append((rule, seen))
            if seen.value >= rule.threshold * CLEAR:
                keep.add(key)
    resolved = tuple(alert for alert in standing if (alert.rule, alert.subject) not in keep)
    return Decision(tuple(raised), resolved)


def message(rule: Rule, seen: Observation) -> str:
    """One line for a person."""
    minutes = f"{rule.window_s / 60:g} minutes"
    if rule.measure == "error_rate":
        return (
            f"{seen.value:.1%} of {seen.samples} answers of {seen.subject} failed in {minutes} "
            f"(threshold {rule.threshold:.1%})"
        )
    if rule.measure == "queue_age":
        return (
            f"the oldest of {seen.samples} jobs that could run on {seen.subject} has waited {seen.value:.0f} s "
            f"(threshold {rule.threshold:g} s)"
        )
    if rule.measure == "worker_silent":
        return (
            f"worker {seen.subject} has not reported for {seen.value:.0f} s (threshold {rule.threshold:g} s)"
        )
    return f"{seen.value:.0f} jobs of {seen.subject} died in {minutes} (threshold {rule.threshold:g})"


def parse_rules(text: str) -> tuple[Rule, ...]:
    """RULES with the changes of a file; raises ConfigurationError that names what is wrong."""
    try:
        raw = yaml.safe_load(text) or {}
    except yaml.YAMLError as exc:
        raise _wrong(f"is neither YAML nor JSON: {exc}") from exc
    if not isinstance(raw, dict) or set(raw) - {"rules"} or not isinstance(raw.get("rules", {}), dict):
        raise _wrong("must be one mapping `rules` from a rule's name to what it changes")
    rules = {rule.name: rule for rule in RULES}
    for name, changes in raw.get("rules", {}).items():
        if not isinstance(changes, dict):
            raise _wrong(f"rule {name!r} must be a mapping, got {changes!r}")
        known: dict[str, Any] = rules[name].model_dump() if name in rules else {}
        try:
            rules[str(name)] = Rule.model_validate({**known, "name": name, **changes})
        except ValidationError as exc:
            first = exc.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "rule"
            raise _wrong(f"rule {name!r}, {where}: {first['msg']} (got {first['input']!r})") from exc
    return tuple(rule for rule in rules.values() if rule.enabled)


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(f"the file of alert rules {what}", param="HELIU_ALERT_RULES")
