"""Rules and the decision what to raise and resolve."""

from __future__ import annotations

from uuid import UUID

import pytest

from services.monitoring.alerts import RULES, Observation, Open, Rule, decide, message, parse_rules
from shared.errors import ConfigurationError

RATE = Rule(name="errors", measure="error_rate", threshold=0.1, minimum=20)
TENANT = UUID(int=1)


def seen(value: float, subject: str = "acme/base", samples: int = 100) -> Observation:
    return Observation(subject, value, samples, TENANT, ("ab" * 16,))


def raised(rule: Rule, *observations: Observation, standing: tuple[Open, ...] = ()) -> list[str]:
    return [one.subject for _, one in decide({rule: observations}, standing).raised]


def resolved(rule: Rule, *observations: Observation, standing: tuple[Open, ...]) -> list[str]:
    return [one.id for one in decide({rule: observations}, standing).resolved]


STANDS = (Open("a1", "errors", "acme/base"),)


def test_a_value_at_the_threshold_raises() -> None:
    assert raised(RATE, seen(0.1)) == ["acme/base"]
    assert raised(RATE, seen(0.099)) == []


def test_few_samples_raise_nothing() -> None:
    assert raised(RATE, seen(1.0, samples=19)) == []


def test_what_stands_is_not_raised_again() -> None:
    assert raised(RATE, seen(0.5), standing=STANDS) == []


def test_an_alert_stays_until_its_value_is_clearly_under_the_threshold() -> None:
    assert resolved(RATE, seen(0.09), standing=STANDS) == []
    assert resolved(RATE, seen(0.07), standing=STANDS) == ["a1"]


def test_a_subject_that_is_gone_or_quiet_resolves() -> None:
    assert resolved(RATE, standing=STANDS) == ["a1"]
    assert resolved(RATE, seen(0.9, samples=3), standing=STANDS) == ["a1"]


def test_an_alert_of_a_rule_that_is_gone_resolves() -> None:
    assert [one.id for one in decide({}, STANDS).resolved] == ["a1"]


def test_a_rule_sees_only_subjects_that_match() -> None:
    queues = Rule(name="age", measure="queue_age", threshold=1, match=("data", "inference.*"))
    ages = [seen(9, name) for name in ("data", "database", "inference.default.batch", "training.default")]
    assert raised(queues, *ages) == ["data", "inference.default.batch"]


def test_two_subjects_of_one_rule_are_apart() -> None:
    assert raised(RATE, seen(0.5), seen(0.5, "acme/tuned"), standing=STANDS) == ["acme/tuned"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_says_what_it_saw_and_its_threshold(rule: Rule) -> None:
    text = message(rule, seen(rule.threshold * 2, "the-subject"))
    assert "the-subject" in text
    assert "%" in text or f"{rule.threshold:g}" in text


def test_a_file_changes_adds_and_switches_off() -> None:
    rules = parse_rules(
        """
        rules:
          error_rate: {threshold: 0.02, minimum: 100}
          worker_silent: {enabled: false}
          slow_batches: {measure: queue_age, match: ["inference.*.batch"], threshold: 3600, severity: critical}
        """
    )
    by_name = {rule.name: rule for rule in rules}
    assert (by_name["error_rate"].threshold, by_name["error_rate"].minimum) == (0.02, 100)
    assert by_name["error_rate"].severity == "critical"
    assert "worker_silent" not in by_name
    assert by_name["slow_batches"].matches("inference.default.batch")
    assert by_name["dead_jobs"] in RULES


def test_json_is_yaml_and_an_empty_file_changes_nothing() -> None:
    assert parse_rules('{"rules": {"dead_jobs": {"threshold": 5}}}')[-1].threshold == 5
    assert parse_rules("") == RULES


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rules: {error_rate: {treshold: 1}}", "treshold"),
        ("rules: {error_rate: {threshold: 0}}", "threshold"),
        ("rules: {error_rate: {threshold: .nan}}", "threshold"),
        ("rules: {mine: {threshold: 1}}", "measure"),
        ("rules: {error_rate: 5}", "error_rate"),
        ("rules: [1]", "mapping"),
        ("- 1", "mapping"),
        ("alerts: {}", "rules"),
        ("rules: {", "YAML"),
        ("!!python/object/apply:os.getpid []", "YAML"),
    ],
)
def test_a_wrong_file_is_refused_by_what_is_wrong(text: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        parse_rules(text)
