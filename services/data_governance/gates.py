"""Decides whether a version may be used: each declared limit against its measured value. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.contracts.recipe import Gates

# Not of the version alone, and so not a part of its artifact.
DRIFT = "max_drift"


@dataclass(frozen=True, slots=True)
class Measured:
    """What gates look at, in rows but for `pii_left` (places) and `leaked_questions` (distinct questions)."""

    rows_in: int
    rows_kept: int
    rows_validation: int
    rows_bad: int
    rows_duplicate: int
    rows_conflicting: int
    pii_left: int
    leaked_questions: int


def evaluate(gates: Gates, measured: Measured) -> dict[str, Any]:
    """`{"passed", "reasons", "checks": [{"name", "passed", "value", "limit"}]}`; no row at all never passes."""
    rows_in = max(measured.rows_in, 1)
    values: dict[str, float] = {
        "min_rows": measured.rows_kept,
        "min_validation_rows": measured.rows_validation,
        "max_dropped_ratio": (measured.rows_in - measured.rows_kept) / rows_in,
        "max_bad_ratio": measured.rows_bad / rows_in,
        "max_duplicate_ratio": measured.rows_duplicate / rows_in,
        "max_conflict_ratio": measured.rows_conflicting / rows_in,
        "max_pii_left": measured.pii_left,
        "max_leaked_questions": measured.leaked_questions,
    }
    declared = gates.model_dump(exclude={DRIFT})
    limits = {name: limit for name, limit in declared.items() if limit is not None}
    limits["min_rows"] = max(limits.get("min_rows", 1), 1)
    checks = []
    for name in sorted(limits):
        value, limit = round(values[name], 6), limits[name]
        passed = value >= limit if name.startswith("min_") else value <= limit
        checks.append({"name": name, "passed": passed, "value": value, "limit": limit})
    return _verdict(checks)


def with_drift(gate: Mapping[str, Any], gates: Gates, drift: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict of `evaluate` with that on the drift from the version before, where a limit of it is declared."""
    if gates.max_drift is None:
        return dict(gate)
    value = drift["psi"]
    check = {
        "name": DRIFT,
        "passed": value <= gates.max_drift,
        "value": value,
        "limit": gates.max_drift,
        "of": max(drift["figures"], key=lambda figure: figure["psi"], default={"name": "nothing"})["name"],
    }
    return _verdict([*gate["checks"], check])


def _verdict(checks: list[dict[str, Any]]) -> dict[str, Any]:
    reasons = [_reason(check) for check in checks if not check["passed"]]
    return {"passed": not reasons, "reasons": reasons, "checks": checks}


def _reason(check: dict[str, Any]) -> str:
    name, side = check["name"], "at least" if check["name"].startswith("min_") else "at most"
    what = name.removeprefix("min_").removeprefix("max_").replace("_", " ")
    if of := check.get("of"):
        what += f" of {of.replace('_', ' ')}"
    return f"{name}: {what} is {check['value']}, {side} {check['limit']} is asked for"
