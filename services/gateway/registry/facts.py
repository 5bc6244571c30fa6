"""What is known of a candidate beside its scores, and the checks that need no eval. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shared.contracts.model_registry import GateRules, Outcome

Check = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What is known of a candidate beside its scores. Parity is None where nothing was compared."""

    model: str
    kind: str
    trained_here: bool
    parity: Mapping[str, Any] | None = None
    dataset_version: str | None = None
    file: str | None = None
    data_gate_passed: bool | None = None
    data_gate_reasons: tuple[str, ...] = ()
    leaked_questions: int | None = None
    erased: bool = False
    champion: str | None = None
    # What it learned from, where the items of its eval are rows of that.
    tested_on: str | None = None

    def dump(self) -> dict[str, Any]:
        return {**asdict(self), "data_gate_reasons": list(self.data_gate_reasons)}

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Facts:
        return cls(**{**stored, "data_gate_reasons": tuple(stored["data_gate_reasons"])})


def checks_of(rules: GateRules, facts: Facts) -> list[Check]:
    """Of how the model was made."""
    return [_parity(rules, facts), _data_gate(rules, facts), _leakage(rules, facts), _erasure(facts)]


def check(name: str, outcome: Outcome, reason: str, **figures: Any) -> Check:
    """One check as decisions keep it: its outcome, why, and the figures that it stands on."""
    return {"name": name, "outcome": outcome, "reason": reason, **figures}


def _parity(rules: GateRules, facts: Facts) -> Check:
    if rules.parity == "off":
        return check("parity", "not_applicable", "not asked for")
    if not facts.trained_here:
        return check("parity", "not_applicable", "the model was not trained here")
    if facts.parity is None:
        return check("parity", "failed", "its training did not compare trainer and engine; train it again")
    figures = {name: facts.parity.get(name) for name in ("max_abs_difference", "tolerance", "rows")}
    if facts.parity.get("passed") is not True:
        return check("parity", "failed", "trainer and engine disagree", **figures)
    return check("parity", "passed", "trainer and engine agree", **figures)


def _data_gate(rules: GateRules, facts: Facts) -> Check:
    if rules.data_gate == "off":
        return check("data_gate", "not_applicable", "not asked for")
    if facts.dataset_version is not None and facts.data_gate_passed is not None:
        if facts.data_gate_passed:
            return check("data_gate", "passed", f"{facts.dataset_version} passed its gate")
        return check("data_gate", "failed", "; ".join(facts.data_gate_reasons) or "the gate did not pass")
    of = f"the file {facts.file}, which has no gate" if facts.file else "data that nothing is known of"
    if rules.data_gate == "where_known":
        return check("data_gate", "not_applicable", f"it learned from {of}")
    return check(
        "data_gate", "failed", f"it learned from {of}; train on a dataset version, or ask where_known"
    )


def _leakage(rules: GateRules, facts: Facts) -> Check:
    if rules.leakage == "off":
        return check("leakage", "not_applicable", "not asked for")
    if facts.tested_on is not None:
        return check("leakage", "failed", f"its eval asks rows of {facts.tested_on}, which it learned from")
    if facts.leaked_questions is None:
        return check("leakage", "not_applicable", "its data has no report")
    leaked = facts.leaked_questions
    outcome: Outcome = "failed" if leaked else "passed"
    return check("leakage", outcome, f"{leaked} questions stand in both splits", n=leaked)


def _erasure(facts: Facts) -> Check:
    if facts.erased:
        said = (
            "it learned from rows that were erased since; train it again on the version built in their place"
        )
        return check("erasure", "failed", said)
    return check("erasure", "passed", "nothing that it learned from was erased since")
