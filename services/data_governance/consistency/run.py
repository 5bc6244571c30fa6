"""All checks of one request, in order, and the report that comes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.data_governance.consistency.entities import Told, settle
from services.data_governance.consistency.inputs import Input
from services.data_governance.consistency.rules import check_key, check_reference
from shared.contracts.consistency import Checks


@dataclass(frozen=True)
class Checked:
    """The report; with entities also the file of things, its rows, and the file of conflicts, where there are any."""

    report: dict[str, Any]
    merged: Path | None
    rows: int
    conflicts: Path | None


def run(
    checks: Checks, files: Sequence[tuple[str, Path, str]], folder: Path, check: Callable[[], None]
) -> Checked:
    """`files` are (name, path, filename). Raises InvalidInput for a file or column that cannot be used."""
    with ExitStack() as opened:
        inputs: dict[str, Input] = {}
        for index, (name, path, filename) in enumerate(files):
            inputs[name] = Input(name, path, filename, folder / f"input-{index}", check)
            opened.callback(inputs[name].close)
        keys = [check_key(rule, inputs, f"checks.keys[{i}]") for i, rule in enumerate(checks.keys)]
        references = []
        for i, rule in enumerate(checks.references):
            check()
            references.append(check_reference(rule, inputs, f"checks.references[{i}]"))
        told: Told | None = None
        merged, conflicts = folder / "merged.parquet", folder / "conflicts.parquet"
        if checks.entities is not None:
            told = settle(checks.entities, inputs, folder / "entities", merged, conflicts, check)
        report = {
            "inputs": [{"name": one.name, "rows": one.rows, "bad_rows": one.bad} for one in inputs.values()],
            "keys": keys,
            "references": references,
            "entities": _entities(told) if told is not None else None,
            "ok": all(found["ok"] for found in (*keys, *references)),
        }
    if told is None:
        return Checked(report, None, 0, None)
    return Checked(report, merged, told.entities, conflicts if told.conflicts else None)


def _entities(told: Told) -> dict[str, Any]:
    return {
        "records": told.records,
        "entities": told.entities,
        "of_several_records": told.merged,
        "records_without_a_key": told.unmatchable,
        "forms_shared_too_often": told.shared_too_often,
        "conflicts": {"total": sum(told.conflicts.values()), "by_column": dict(told.conflicts)},
        "samples": told.samples,
    }
