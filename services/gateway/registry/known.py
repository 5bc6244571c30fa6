"""Gathers what is known of a model: of itself, of the data that it learned from, and of what it stands on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from services.gateway.registry import decisions_repository as repository
from services.gateway.registry.facts import Facts
from shared.db import Connection, Row

DATASET = "dsv-"


def facts_of(connection: Connection, tenant: UUID, model: Row, champion: str | None = None) -> Facts:
    """What is known of a model, as one moment of the database has it."""
    learned, info = model["dataset_version"], model["info"]
    data = None
    if learned is not None and learned.startswith(DATASET):
        data = repository.data_of(connection, tenant, learned)
    parity = info.get("parity")
    erased = repository.is_erased(connection, tenant, model["id"])
    return Facts(
        model=model["id"],
        kind=model["kind"],
        trained_here=learned is not None or "lineage" in info,
        parity=parity if isinstance(parity, Mapping) else None,
        dataset_version=learned if data is not None else None,
        file=learned if data is None else None,
        data_gate_passed=data["gate_passed"] if data is not None else None,
        data_gate_reasons=tuple(data["gate"].get("reasons", ())) if data is not None else (),
        leaked_questions=_leaked(data["report"]) if data is not None else None,
        erased=erased or (data is not None and data["needs_rebuild"]),
        champion=champion,
        ancestors=tuple(_ancestor(row) for row in repository.ancestors(connection, tenant, model["id"])),
    )


def _leaked(report: Mapping[str, Any]) -> int | None:
    leaked = (report.get("leakage") or {}).get("questions_in_both_splits")
    return leaked if isinstance(leaked, int) else None


def _ancestor(row: Row) -> dict[str, Any]:
    gate = row["gate"] or {}
    return {
        "model": row["model"],
        "data": row["data"],
        "gate_passed": row["gate_passed"],
        "reasons": list(gate.get("reasons", ())),
    }
