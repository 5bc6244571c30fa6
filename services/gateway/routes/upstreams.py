"""`/v1/upstreams`: models that another OpenAI-compatible server answers for. An operator's, like all that decides
where the platform connects to; a tenant sees them among its models."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from anyio import to_thread
from fastapi import APIRouter, Depends, Query
from pydantic import Field

from services.gateway import keys_repository
from services.gateway.auth import Caller, operator_only
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import json_body
from services.gateway.models import repository as models_repository
from services.gateway.models import shapes as model_shapes
from services.gateway.models import upstreams_repository
from services.gateway.models.probe import Probed, probe
from services.gateway.models.uses import check_unused
from services.gateway.pages import listing
from shared.contracts.models import NAME
from shared.contracts.upstream import SETTING, check_endpoints, check_key, secret_name
from shared.db import Connection, Row
from shared.errors import InvalidInput, NotFound
from shared.jobs import new_id
from shared.outbound import Forbidden, check_url
from shared.outbound_async import GuardedTransport

router = APIRouter(tags=["operator"], dependencies=[Depends(operator_only)])

MOST = 1000
TENANT = r"^[a-z0-9][a-z0-9_-]{0,62}$"


class CreateUpstream(Body):
    """`url` is what `/chat/completions` is put behind; `model` is the name there, `name` by default. `test` asks the
    server for its models before anything is written."""

    name: str = Field(pattern=NAME)
    url: str = Field(min_length=1, max_length=2048)
    model: str | None = Field(default=None, min_length=1, max_length=256)
    tenant: str = Field("default", pattern=TENANT)
    endpoints: list[str] = Field(default=["chat", "completions"], max_length=8)
    context_length: int | None = Field(default=None, ge=1, le=2**31 - 1)
    # Checked by hand, for whatever is wrong with it must not be told with it.
    api_key: Any = None
    test: bool = True


class ChangeUpstream(Body):
    """What is left out stays; an empty `api_key` takes it away."""

    url: str | None = Field(default=None, min_length=1, max_length=2048)
    model: str | None = Field(default=None, min_length=1, max_length=256)
    endpoints: list[str] | None = Field(default=None, max_length=8)
    context_length: int | None = Field(default=None, ge=1, le=2**31 - 1)
    api_key: Any = None
    test: bool = True


TenantQuery = Annotated[str, Query(pattern=TENANT)]
EXAMPLE = {"name": "cluster", "url": "https://vllm.example.com/v1", "model": "Qwen/Qwen2.5-72B-Instruct"}


@router.post("/v1/upstreams", summary="Add an upstream model", **json_body(CreateUpstream, EXAMPLE))
async def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateUpstream], Depends(incoming(CreateUpstream))]
) -> dict[str, Any]:
    """From then on the tenant's requests for `name` are answered there. The key is never shown again."""
    body = request.body
    key = _key(body.api_key)
    values = {
        "id": new_id("ups-"),
        "name": body.name,
        "url": _url(gateway, body.url),
        "model": body.model or body.name,
        "endpoints": check_endpoints(body.endpoints, "endpoints"),
        "context_length": body.context_length,
    }
    if body.test:
        probed = await _test(gateway, values, key)
        values["context_length"] = body.context_length or probed.context_length

    def write() -> Row:
        tenant = _tenant(gateway, body.tenant)
        with gateway.db.transaction(tenant) as connection:
            models_repository.check_free(connection, tenant, body.name)
            upstreams_repository.insert(
                connection,
                tenant,
                {**values, "api_key": _sealed(gateway, str(values["id"]), key)},
                _info(values),
            )
            _audit(connection, tenant, request.caller, "upstream_created", values)
        return _find(gateway, body.tenant, body.name)

    return model_shapes.upstream(await to_thread.run_sync(write))


@router.get("/v1/upstreams", summary="List upstream models")
def list_upstreams(gateway: GatewayDep) -> dict[str, Any]:
    """Of all tenants, newest first; never with their keys."""
    with gateway.db.core() as connection:
        rows = upstreams_repository.listed(connection, MOST)
    return listing([model_shapes.upstream(row) for row in rows], False)


@router.get("/v1/upstreams/{name}", summary="One upstream model")
def retrieve(name: str, gateway: GatewayDep, tenant: TenantQuery = "default") -> dict[str, Any]:
    return model_shapes.upstream(_find(gateway, tenant, name))


@router.post(
    "/v1/upstreams/{name}",
    summary="Change an upstream model",
    **json_body(ChangeUpstream, {"url": EXAMPLE["url"]}),
)
async def change(
    name: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[ChangeUpstream], Depends(incoming(ChangeUpstream))],
    tenant: TenantQuery = "default",
) -> dict[str, Any]:
    """Workers follow within seconds; what is under way ends as it began."""
    body = request.body
    row = await to_thread.run_sync(_find, gateway, tenant, name)
    key = "" if body.api_key == "" else _key(body.api_key)
    values = {
        "id": row["id"],
        "name": name,
        "url": _url(gateway, body.url) if body.url is not None else row["url"],
        "model": body.model or row["model"],
        "endpoints": row["endpoints"]
        if body.endpoints is None
        else check_endpoints(body.endpoints, "endpoints"),
        "context_length": body.context_length or row["context_length"],
    }
    if body.test:
        await _test(gateway, values, key if key is not None else await _stored_key(gateway, row["id"]))

    def write() -> Row:
        of = _tenant(gateway, tenant)
        with gateway.db.transaction(of) as connection:
            upstreams_repository.change(
                connection, of, values, _info(values), _sealed(gateway, row["id"], key)
            )
            _audit(connection, of, request.caller, "upstream_changed", values)
        return _find(gateway, tenant, name)

    return model_shapes.upstream(await to_thread.run_sync(write))


@router.post("/v1/upstreams/{name}/test", summary="Test an upstream model")
async def run_test(name: str, gateway: GatewayDep, tenant: TenantQuery = "default") -> dict[str, Any]:
    """Asks it for its models. A failure is a 400 that says what was wrong."""
    row = await to_thread.run_sync(_find, gateway, tenant, name)
    probed = await _test(gateway, row, await _stored_key(gateway, row["id"]))
    return {"object": "upstream.test", "name": name, "ok": True, "models": list(probed.models)}


@router.delete("/v1/upstreams/{name}", summary="Remove an upstream model")
def delete(
    name: str, gateway: GatewayDep, caller: CallerDep, tenant: TenantQuery = "default"
) -> dict[str, Any]:
    """Refused while tasks, graders of evals, gates or unfinished jobs need it. Its key is forgotten."""
    row, of = _find(gateway, tenant, name), _tenant(gateway, tenant)
    with gateway.db.transaction(of) as connection:
        check_unused(connection, of, name)
        models_repository.delete_model(connection, of, name)
        upstreams_repository.delete(connection, of, name)
        _audit(connection, of, caller, "upstream_deleted", row)
    return {"id": name, "object": "upstream", "deleted": True}


def _key(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInput("api_key must be a string", param="api_key")
    check_key(value, "api_key")
    return value


def _sealed(gateway: Gateway, upstream_id: str, key: str | None) -> str | None:
    """None and the empty key, which takes one away, stay what they are."""
    return gateway.sealer.seal(key, secret_name(upstream_id)) if key else key


def _url(gateway: Gateway, url: str) -> str:
    """Refuse what can be seen to be wrong; each connection judges the addresses that the name has then."""
    try:
        parts = check_url(url)
        GuardedTransport(gateway.settings.allowed_upstreams, setting=SETTING, connections=1).check(url)
    except Forbidden as exc:
        raise Forbidden(exc.message, param="url") from exc
    if parts.query or parts.fragment:
        raise InvalidInput("the url has a query or a fragment; leave them out", param="url")
    return url.rstrip("/")


async def _test(gateway: Gateway, row: Row, key: str | None) -> Probed:
    return await probe(row["url"], row["model"], key, gateway.settings.allowed_upstreams)


async def _stored_key(gateway: Gateway, upstream_id: str) -> str | None:
    def read() -> str | None:
        with gateway.db.core() as connection:
            held = upstreams_repository.key_of(connection, upstream_id)
        return gateway.sealer.open_or_plain(held, secret_name(upstream_id)) if held else None

    return await to_thread.run_sync(read)


def _tenant(gateway: Gateway, name: str) -> UUID:
    with gateway.db.core() as connection:
        row = keys_repository.tenant_by_name(connection, name)
    if row is None:
        raise NotFound(f"no tenant {name!r}; POST /v1/tenants makes one", param="tenant")
    tenant: UUID = row["id"]
    return tenant


def _find(gateway: Gateway, tenant: str, name: str) -> Row:
    of = _tenant(gateway, tenant)
    with gateway.db.core() as connection:
        row = upstreams_repository.find(connection, of, name)
    if row is None:
        raise NotFound(f"the tenant {tenant!r} has no upstream model {name!r}", param="name")
    return row


def _info(values: Row) -> dict[str, Any]:
    """What a tenant is told: not where it stands."""
    told = {name: values[name] for name in ("endpoints", "context_length")}
    return {"source": "upstream", "upstream_model": values["model"], **told}


def _audit(connection: Connection, tenant: UUID, caller: Caller, action: str, values: Row) -> None:
    data = {name: values[name] for name in ("url", "model", "endpoints")}
    keys_repository.audit(connection, tenant, caller.key_id or "local", action, values["name"], data)
