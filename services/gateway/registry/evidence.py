"""What gates and their decisions rest on, and so is not deleted while the registered model is there."""

from __future__ import annotations

from uuid import UUID

from services.gateway.models.uses import NAMED, few
from services.gateway.registry import evidence_repository as repository
from shared.db import Connection
from shared.errors import Conflict


def check_eval_unused(connection: Connection, tenant: UUID, eval_id: str) -> None:
    """Raise Conflict (`in_use`) for an eval that a gate names, or whose runs decisions rest on. Lock it before."""
    names = repository.gated_by(connection, tenant, eval_id, NAMED + 1)
    if names:
        gates = few("the gates of registered models", names)
        raise Conflict(
            f"the eval {eval_id} is named by {gates}; name another there first",
            code="in_use",
            param="eval_id",
        )
    _check_runs(connection, tenant, eval_id, None, "eval_id")


def check_run_unused(connection: Connection, tenant: UUID, eval_id: str, run_id: str) -> None:
    """Raise Conflict (`in_use`) for a run that a decision rests on."""
    _check_runs(connection, tenant, eval_id, run_id, "run_id")


def check_file_unused(connection: Connection, tenant: UUID, file_id: str) -> None:
    """Raise Conflict (`in_use`) for a file whose items the next version of a registered model must be asked too."""
    found = repository.gates_with_items_of(connection, tenant, file_id, NAMED + 1)
    if found:
        gates = few("the gates of registered models", [row["name"] for row in found])
        raise Conflict(
            f"the file {file_id} has the items of runs of {found[0]['eval_id']}, which is named by {gates}: the next "
            "version has to be asked the same; name another eval there first",
            code="in_use",
            param="file_id",
        )


def _check_runs(connection: Connection, tenant: UUID, eval_id: str, run_id: str | None, param: str) -> None:
    runs = repository.lock_runs(connection, tenant, eval_id, run_id)
    found = repository.decided_by(connection, tenant, runs)
    if found is not None:
        raise Conflict(
            f"decision {found['id']} of {found['name']}@{found['version']} rests on the run {found['run_id']}; both "
            "stay as long as that registered model does",
            code="in_use",
            param=param,
        )
