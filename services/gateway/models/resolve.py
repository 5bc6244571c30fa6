"""From the names in a request to content: models, training data, batch inputs. Runs as the caller's tenant."""

from __future__ import annotations

import difflib
from typing import Any
from uuid import UUID

from services.gateway.adaptation import repository as tasks_repository
from services.gateway.datasets import repository as datasets_repository
from services.gateway.datasets import warehouse_repository
from services.gateway.models import repository as models_repository
from services.gateway.registry import releases
from services.gateway.uploads import repository as files_repository
from shared.contracts.inference import Endpoint, ModelRef
from shared.contracts.model_registry import RegisteredRoute, ReleaseUsed, registered_name
from shared.contracts.serving import check_serves
from shared.contracts.task import PREFIX, TaskRoute
from shared.contracts.training import BaseRef, DataRef
from shared.contracts.upstream import ENDPOINTS
from shared.db import Connection, Row
from shared.errors import HeliuError, InvalidInput, NotFound

MAX_BATCH_MODELS = 1000
MAX_BATCH_TASKS = 1000
MAX_BATCH_REGISTERED = 1000
HEADS = ("classifier", "ranker")


def model_row(connection: Connection, tenant: UUID, name: str, param: str = "model") -> Row:
    """The tenant's model of this name; raises NotFound (`model_not_found`) with a near name.

    A registered name is its version in production, or the one that it is asked for with.
    """
    named = registered_name(name)
    if named is not None:
        name, _ = releases.release(connection, tenant, *named, releases.NOBODY, param)
    row = models_repository.get_model(connection, tenant, name)
    if row is None:
        near = difflib.get_close_matches(name, models_repository.model_names(connection, tenant), 1)
        hint = f"; did you mean {near[0]!r}?" if near else "; GET /v1/models lists those that do"
        if name.startswith(PREFIX):
            hint = " here; tasks are called through /v1/chat/completions"
        raise NotFound(f"the model {name!r} does not exist{hint}", code="model_not_found", param=param)
    return row


def kept_row(connection: Connection, tenant: UUID, name: str, param: str = "model") -> Row:
    """The same, of a model that is not deleted until the transaction ends: for whoever comes to need it."""
    row = model_row(connection, tenant, name, param)
    if not models_repository.hold(connection, tenant, row["id"]):
        raise NotFound(f"the model {name!r} was deleted meanwhile", code="model_not_found", param=param)
    return row


def called(
    connection: Connection, tenant: UUID, name: str, endpoint: str, key: str | None
) -> tuple[ModelRef, ReleaseUsed | None]:
    """The model that answers this caller at an endpoint; of a registered name, the version that `key` gets."""
    used: ReleaseUsed | None = None
    named = registered_name(name)
    if named is not None:
        name, used = releases.release(connection, tenant, *named, key, "model")
    return served(model_row(connection, tenant, name), endpoint), used


def model_ref(row: Row) -> ModelRef:
    """A served model by content: an adapter on its base, or a base."""
    base, adapter = _parts(row)
    return ModelRef(
        name=row["id"],
        base_artifact=base,
        adapter_artifact=adapter,
        encoder=row["kind"] == "encoder",
        head=row["kind"] if row["kind"] in HEADS else None,
        upstream=_upstream(row),
        base=(row["base_id"] or "") if adapter is not None else "",
    )


def served(row: Row, endpoint: str) -> ModelRef:
    """The same, for an endpoint. Raises InvalidInput (`unsupported_model`) for a model that does not serve it."""
    check_serves(row["id"], row["kind"], endpoint, upstream=_upstream(row))
    return model_ref(row)


def base_ref(row: Row) -> BaseRef:
    """The same for training on conversations. Raises InvalidInput (`unsupported_model`) for what has no answers."""
    if row["kind"] not in ("base", "adapter"):
        raise InvalidInput(
            f"the model {row['id']!r} is of the kind {row['kind']!r}, which has no answers to train or evaluate; "
            "name a base, or train a head on it",
            code="unsupported_model",
            param="model",
        )
    return trunk_ref(row)


def trunk_ref(row: Row) -> BaseRef:
    """Any model of ours as what a head may be put on. Raises InvalidInput for one that another server answers for."""
    if row["kind"] == "upstream":
        raise InvalidInput(
            f"the model {row['id']!r} stands on another server; name one whose weights are here",
            code="unsupported_model",
            param="model",
        )
    base, adapter = _parts(row)
    return BaseRef(
        model=row["id"],
        base_artifact=base,
        adapter_artifact=adapter,
        base=row["base_id"] if adapter is not None else None,
    )


def _upstream(row: Row) -> tuple[Endpoint, ...]:
    """What a model serves that another server answers for; nothing for the others."""
    return tuple(ENDPOINTS[name] for name in row["info"]["endpoints"]) if row["kind"] == "upstream" else ()


def _parts(row: Row) -> tuple[str, str | None]:
    if row["kind"] == "adapter":
        return str(row["base_artifact"]), str(row["artifact"])
    return str(row["artifact"]), None


def batch_models(connection: Connection, tenant: UUID) -> dict[str, ModelRef]:
    """Every model that a row of a batch may name."""
    rows = models_repository.list_models(connection, tenant, MAX_BATCH_MODELS)
    return {row["id"]: model_ref(row) for row in rows}


def batch_tasks(connection: Connection, tenant: UUID) -> dict[str, TaskRoute]:
    """Every task that a row of a batch may name, with the split of this moment."""
    rows = tasks_repository.routes(connection, tenant, MAX_BATCH_TASKS)
    return {
        row["name"]: TaskRoute(id=row["id"], weights=tuple((v, w) for v, w in row["weights"])) for row in rows
    }


def batch_registered(connection: Connection, tenant: UUID) -> dict[str, RegisteredRoute]:
    """Every registered model that a row of a batch may name, shared as at this moment."""
    return releases.batch_routes(connection, tenant, MAX_BATCH_REGISTERED)


def file_row(connection: Connection, file_id: str, *, param: str, purpose: str | None = None) -> Row:
    """The tenant's file; raises NotFound, or InvalidInput for a file of another purpose."""
    row = files_repository.get_file(connection, file_id)
    if row is None:
        raise NotFound(f"no file {file_id!r}", param=param)
    if purpose is not None and row["purpose"] != purpose:
        raise InvalidInput(
            f"file {file_id} has the purpose {row['purpose']!r}; upload it with purpose {purpose!r}",
            param=param,
        )
    return row


def version_row(connection: Connection, tenant: UUID, version_id: str, *, param: str) -> Row:
    """A version whose gate let it through. Raises NotFound, or HeliuError `dataset_gate_failed` with the reasons."""
    rows = datasets_repository.versions(connection, tenant, version_id=version_id, limit=2)
    if not rows:
        raise NotFound(f"no dataset version {version_id!r}", param=param)
    row = rows[0]
    if not row["gate_passed"]:
        raise HeliuError(
            f"dataset version {version_id} fails its gate: {_reasons(row['gate'])}",
            code="dataset_gate_failed",
            param=param,
        )
    return row


def _reasons(gate: dict[str, Any]) -> str:
    reasons = gate.get("reasons") or [str(gate)[:500]]
    return "; ".join(str(reason) for reason in reasons)


def version_ref(connection: Connection, tenant: UUID, version_id: str, *, param: str) -> DataRef:
    """A governed version as training data, by its id or as DATASET@TAG."""
    if "@" in version_id:
        version_id = _tagged(connection, tenant, version_id, param)
    if not version_id.startswith("dsv-"):
        raise InvalidInput(
            f"{version_id!r} is not a dataset version; its id starts with 'dsv-' and stands in the dataset's "
            "versions and in the result of the job that built it",
            param=param,
        )
    row = version_row(connection, tenant, version_id, param=param)
    return DataRef(id=row["id"], kind="version", artifact=row["artifact"])


def _tagged(connection: Connection, tenant: UUID, named: str, param: str) -> str:
    """The version that a tag of a dataset stands at; a later move of the tag does not change what was asked for."""
    name, _, tag = named.rpartition("@")
    dataset = datasets_repository.get_dataset(connection, tenant, name)
    tags = warehouse_repository.tags(connection, tenant, dataset["id"], name=tag) if dataset else []
    if not tags:
        raise NotFound(f"no dataset {name!r} with a tag {tag!r}", param=param)
    return str(tags[0]["version_id"])


def data_ref(connection: Connection, tenant: UUID, name: str, *, param: str) -> DataRef:
    """Training data: a file uploaded for fine-tuning, or a governed version."""
    if name.startswith("dsv-") or "@" in name:
        return version_ref(connection, tenant, name, param=param)
    if not name.startswith("file-"):
        raise InvalidInput(
            f"{name!r} is neither a file id ('file-...') nor a dataset version ('dsv-...')", param=param
        )
    row = file_row(connection, name, param=param, purpose="fine-tune")
    return DataRef(id=row["id"], kind="file", artifact=row["artifact"])
