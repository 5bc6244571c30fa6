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
    # What it, or one that it stands on, learned from, where the items of its eval are rows of that.
    tested_on: str | None = None
    # The models that it stands on and that learned from something here: `model`, `data`, of a dataset version
    # `gate_passed` and `reasons`. Nearest first.
    ancestors: tuple[Mapping[str, Any], ...] = ()

    def dump(self) -> dict[str, Any]:
        lists = {name: list(getattr(self, name)) for name in ("data_gate_reasons", "ancestors")}
        return {**asdict(self), **lists}

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Facts:
        """Of a decision's record; an older one says nothing of ancestors, which were not asked of then."""
        tuples = {name: tuple(stored.get(name, ())) for name in ("data_gate_reasons", "ancestors")}
        return cls(**{**stored, **tuples})

    def refused_ancestor(self) -> Mapping[str, Any] | None:
        """The nearest model that it stands on whose data failed its gate."""
        return next((one for one in self.ancestors if one["gate_passed"] is False), None)


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
    if facts.parity.get("passed") is None:
        return check("parity", "failed", facts.parity.get("why") or "trainer and engine were not compared")
    figures = {name: facts.parity.get(name) for name in ("max_abs_difference", "tolerance", "rows")}
    if facts.parity.get("passed") is not True:
        return check("parity", "failed", "trainer and engine disagree", **figures)
    return check("parity", "passed", "trainer and engine agree", **figures)


def _data_gate(rules: GateRules, facts: Facts) -> Check:
    if rules.data_gate == "off":
        return check("data_gate", "not_applicable", "not asked for")
    own = _own_data(rules, facts)
    return own if own["outcome"] == "failed" else _data_beneath(rules, facts) or own


def _own_data(rules: GateRules, facts: Facts) -> Check:
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


def _data_beneath(rules: GateRules, facts: Facts) -> Check | None:
    """What stands against the data of a model that it stands on; one that was brought in has none that is known."""
    refused = facts.refused_ancestor()
    if refused is not None:
        why = "; ".join(refused["reasons"]) or "the gate did not pass"
        words = f"it stands on {refused['model']}, which learned from {refused['data']}: {why}"
        return check("data_gate", "failed", words, ancestor=refused["model"])
    ungoverned = next((one for one in facts.ancestors if one["gate_passed"] is None), None)
    if ungoverned is None or rules.data_gate == "where_known":
        return None
    words = (
        f"it stands on {ungoverned['model']}, which learned from {ungoverned['data']}, which has no gate; train that "
        "on a dataset version, or ask where_known"
    )
    return check("data_gate", "failed", words, ancestor=ungoverned["model"])


def _leakage(rules: GateRules, facts: Facts) -> Check:
    if rules.leakage == "off":
        return check("leakage", "not_applicable", "not asked for")
    if facts.tested_on is not None:
        return check(
            "leakage",
            "failed",
            f"its eval asks rows of {facts.tested_on}, which {_learned(facts)} learned from",
        )
    if facts.leaked_questions is None:
        return check("leakage", "not_applicable", "its data has no report")
    leaked = facts.leaked_questions
    outcome: Outcome = "failed" if leaked else "passed"
    return check("leakage", outcome, f"{leaked} questions stand in both splits", n=leaked)


def _learned(facts: Facts) -> str:
    """Who learned from what it is tested on."""
    if facts.tested_on in (facts.dataset_version, facts.file):
        return "it"
    return next((one["model"] for one in facts.ancestors if one["data"] == facts.tested_on), "it")


def _erasure(facts: Facts) -> Check:
    if facts.erased:
        said = (
            "it learned from rows that were erased since; train it again on the version built in their place"
        )
        return check("erasure", "failed", said)
    return check("erasure", "passed", "nothing that it learned from was erased since")
