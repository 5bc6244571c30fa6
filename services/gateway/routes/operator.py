"""The operator's routes: tenants, keys, workers, the wish for more workers. Tenant keys get a 403."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from services.gateway import keys_repository
from services.gateway.auth import Caller, operator_only
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.docs import json_body
from services.gateway.operator import repository as platform_repository
from services.gateway.operator import shapes as operator_shapes
from services.gateway.operator.scaling import capacity, desired_workers, queues_by_name
from services.gateway.pages import PageDep, listing, unknown_cursor
from shared.bootstrap import create_key
from shared.contracts.registry import CALLS, JOBS
from shared.errors import Conflict, NotFound, Unavailable

QUEUES = frozenset({job.queue for job in JOBS.values()} | {call.queue for call in CALLS.values()})

router = APIRouter(tags=["operator"], dependencies=[Depends(operator_only)])


class CreateKey(Body):
    name: str = Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")
    role: Literal["tenant", "operator"] = "tenant"
    tenant: str = Field("default", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    requests_per_minute: int | None = Field(default=None, ge=1, le=10_000_000)
    tokens_per_day: int | None = Field(default=None, ge=1, le=10**15)


class CreateTenant(Body):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    max_live: int = Field(64, ge=1, le=100_000)
    max_running: int = Field(8, ge=1, le=100_000)
    weight: float = Field(1.0, ge=0.001, le=1000)


@router.post("/v1/keys", summary="Make an API key", **json_body(CreateKey, {"name": "ci", "role": "tenant"}))
def create_api_key(
    gateway: GatewayDep, request: Annotated[Incoming[CreateKey], Depends(incoming(CreateKey))]
) -> dict[str, Any]:
    """The `key` itself is shown this once."""
    body = request.body
    with gateway.db.core() as connection:
        tenant = keys_repository.tenant_by_name(connection, body.tenant)
        if tenant is None:
            raise NotFound(f"no tenant {body.tenant!r}; POST /v1/tenants makes one", param="tenant")
        key_id, key = create_key(connection, tenant["id"], body.name, body.role, gateway.pepper)
        keys_repository.set_limits(connection, key_id, body.requests_per_minute, body.tokens_per_day)
        data = {"name": body.name, "role": body.role, "tenant": body.tenant}
        keys_repository.audit(connection, tenant["id"], _actor(request.caller), "key_created", key_id, data)
        row = keys_repository.get_key(connection, key_id)
    assert row is not None
    return {**operator_shapes.api_key(row), "key": key}


@router.get("/v1/keys", summary="List API keys")
def list_api_keys(gateway: GatewayDep, page: PageDep) -> dict[str, Any]:
    """Of all tenants, newest first, revoked ones too; never the keys themselves."""
    with gateway.db.core() as connection:
        if page.after and keys_repository.get_key(connection, page.after) is None:
            raise unknown_cursor(page.after)
        rows = keys_repository.list_keys(connection, page.after, page.limit + 1)
    return listing([operator_shapes.api_key(row) for row in rows[: page.limit]], len(rows) > page.limit)


@router.delete("/v1/keys/{key_id}", summary="Revoke an API key")
def revoke_api_key(key_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Bites at once here, and within three seconds in any other gateway."""
    with gateway.db.core() as connection:
        if not keys_repository.revoke(connection, key_id):
            raise NotFound(f"no key {key_id!r}", param="key_id")
        keys_repository.audit(connection, caller.tenant, _actor(caller), "key_revoked", key_id, {})
    gateway.authenticator.forget()
    return {"id": key_id, "object": "api_key", "deleted": True}


@router.post("/v1/tenants", summary="Add a tenant", **json_body(CreateTenant, {"name": "acme"}))
def create_tenant(
    gateway: GatewayDep, request: Annotated[Incoming[CreateTenant], Depends(incoming(CreateTenant))]
) -> dict[str, Any]:
    """`max_live` caps live requests in flight, `max_running` jobs at once on a queue; `weight` shares turns."""
    body = request.body
    with gateway.db.core() as connection:
        row = keys_repository.insert_tenant(
            connection, body.name, body.max_live, body.max_running, body.weight
        )
        if row is None:
            raise Conflict(f"a tenant {body.name!r} exists already", code="already_exists", param="name")
        data = body.model_dump(mode="json")
        keys_repository.audit(
            connection, row["id"], _actor(request.caller), "tenant_created", body.name, data
        )
    return operator_shapes.tenant(row)


@router.get("/v1/tenants", summary="List tenants")
def list_tenants(gateway: GatewayDep, page: PageDep) -> dict[str, Any]:
    """Newest first; the cursor is the name."""
    with gateway.db.core() as connection:
        if page.after and keys_repository.tenant_by_name(connection, page.after) is None:
            raise unknown_cursor(page.after)
        rows = keys_repository.list_tenants(connection, page.after, page.limit + 1)
    shown = [operator_shapes.tenant(row) for row in rows[: page.limit]]
    return listing(shown, len(rows) > page.limit, key=lambda row: str(row["name"]))


@router.get("/v1/workers", summary="List workers")
def list_workers(gateway: GatewayDep) -> dict[str, Any]:
    """Workers that live or have lived within the hour."""
    with gateway.db.core() as connection:
        rows = platform_repository.workers(connection)
    return listing([operator_shapes.worker(row) for row in rows], False)


@router.get("/scaling/{pool}", summary="How many workers a pool should have")
def scaling(pool: str, gateway: GatewayDep) -> dict[str, Any]:
    """For KEDA's `metrics-api` and its like: right at zero workers too. Live requests count where Redis answers."""
    with gateway.db.core() as connection:
        seen = platform_repository.pool_queues(connection, pool)
        queues = sorted({*seen, *queues_by_name(pool, QUEUES)})
        if not queues:
            raise NotFound(
                f"no pool {pool!r}; a pool is named by its queues, such as 'inference.default' or 'data'",
                param="pool",
            )
        rows = platform_repository.queues(connection, queues)
        pool_has = capacity(platform_repository.pool_workers(connection, queues), queues)
    live_waiting = _live_waiting(gateway, queues)
    waiting = sum(row["waiting"] for row in rows) + (live_waiting or 0)
    oldest = max((row["oldest_s"] for row in rows), default=0.0)
    desired = desired_workers(
        waiting=waiting,
        busy_slots=pool_has.busy,
        slots_each=pool_has.slots_each,
        busy_workers=pool_has.busy_workers,
        oldest_s=oldest,
        workers=pool_has.workers,
    )
    return {
        "object": "scaling",
        "pool": pool,
        "queues": queues,
        "waiting": waiting,
        "live_waiting": live_waiting,
        "running": sum(row["running"] for row in rows),
        "busy_slots": pool_has.busy,
        "slots": pool_has.slots,
        "workers": pool_has.workers,
        "oldest_age_seconds": round(oldest, 3),
        "desired": desired,
    }


def _live_waiting(gateway: GatewayDep, queues: list[str]) -> int | None:
    try:
        return sum(gateway.publisher.backlog(queue) for queue in queues if queue.endswith(".live"))
    except Unavailable:
        return None


def _actor(caller: Caller) -> str:
    return caller.key_id or "local"
