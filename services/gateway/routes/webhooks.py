"""`/v1/webhooks`: where a tenant wants to hear of ends and alerts. Delivery is the dispatcher's."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends
from pydantic import Field

from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.complaints import short
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import json_body
from services.gateway.jobs import shapes as job_shapes
from services.gateway.jobs import webhooks_repository
from services.gateway.pages import PageDep, listing, unknown_cursor
from shared.errors import InvalidInput, NotFound
from shared.jobs import new_id
from shared.webhooks import EVENT_TYPES, new_secret

router = APIRouter(tags=["webhooks"])

MOST_ENDPOINTS = 50


class CreateEndpoint(Body):
    url: str = Field(min_length=1, max_length=2048)
    events: list[str] = Field(min_length=1, max_length=64)


class ChangeEndpoint(Body):
    url: str | None = Field(default=None, min_length=1, max_length=2048)
    events: list[str] | None = Field(default=None, min_length=1, max_length=64)


EXAMPLE = {"url": "https://example.com/hooks", "events": ["batch.completed", "fine_tuning.job.succeeded"]}


@router.post("/v1/webhooks", summary="Add a webhook endpoint", **json_body(CreateEndpoint, EXAMPLE))
def create(
    gateway: GatewayDep, request: Annotated[Incoming[CreateEndpoint], Depends(incoming(CreateEndpoint))]
) -> dict[str, Any]:
    """The signing secret is shown this once; signatures are those of Standard Webhooks."""
    body, tenant, secret = request.body, request.caller.tenant, new_secret()
    _check_url(gateway, body.url)
    events = _checked_events(body.events)
    with gateway.db.transaction(tenant) as connection:
        if webhooks_repository.count_endpoints(connection, tenant) >= MOST_ENDPOINTS:
            raise InvalidInput(f"a tenant may have {MOST_ENDPOINTS} endpoints; delete one first", param="url")
        row = webhooks_repository.insert_endpoint(
            connection, new_id("whe_"), tenant, body.url, secret, events
        )
    return {**job_shapes.webhook(row), "secret": secret}


@router.get("/v1/webhooks", summary="List webhook endpoints")
def list_endpoints(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first; without their secrets."""
    with gateway.db.transaction(caller.tenant) as connection:
        if page.after and not webhooks_repository.endpoint_existed(connection, page.after):
            raise unknown_cursor(page.after)
        rows = webhooks_repository.list_endpoints(connection, caller.tenant, page.after, page.limit + 1)
    return listing([job_shapes.webhook(row) for row in rows[: page.limit]], len(rows) > page.limit)


@router.get("/v1/webhooks/{endpoint_id}", summary="One webhook endpoint")
def retrieve(endpoint_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        row = webhooks_repository.get_endpoint(connection, endpoint_id)
    if row is None:
        raise NotFound(f"no webhook endpoint {endpoint_id!r}", param="endpoint_id")
    return job_shapes.webhook(row)


@router.post("/v1/webhooks/{endpoint_id}", summary="Change an endpoint", **json_body(ChangeEndpoint, EXAMPLE))
def change(
    endpoint_id: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[ChangeEndpoint], Depends(incoming(ChangeEndpoint))],
) -> dict[str, Any]:
    """What is left out stays as it is."""
    body = request.body
    if body.url is not None:
        _check_url(gateway, body.url)
    events = _checked_events(body.events) if body.events is not None else None
    with gateway.db.transaction(request.caller.tenant) as connection:
        row = webhooks_repository.change_endpoint(connection, endpoint_id, body.url, events)
    if row is None:
        raise NotFound(f"no webhook endpoint {endpoint_id!r}", param="endpoint_id")
    return job_shapes.webhook(row)


@router.delete("/v1/webhooks/{endpoint_id}", summary="Delete a webhook endpoint")
def delete(endpoint_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        if not webhooks_repository.delete_endpoint(connection, endpoint_id):
            raise NotFound(f"no webhook endpoint {endpoint_id!r}", param="endpoint_id")
    return {"id": endpoint_id, "object": "webhook_endpoint", "deleted": True}


def _checked_events(events: list[str]) -> list[str]:
    for index, name in enumerate(events):
        if name not in EVENT_TYPES:
            raise InvalidInput(
                f"no event is called {short(name)}; there are {', '.join(sorted(EVENT_TYPES))}",
                param=f"events[{index}]",
            )
    return sorted(set(events))


def _check_url(gateway: Gateway, url: str) -> None:
    """Refuse what can be seen to be wrong; the delivery resolves the name and checks the address again."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise InvalidInput(f"{short(url)} is not a URL: {exc}", param="url") from exc
    if (
        parts.scheme not in ("http", "https")
        or not host
        or any(c.isspace() or not c.isprintable() for c in url)
    ):
        raise InvalidInput(f"{short(url)} is not an http or https URL", param="url")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("the URL holds a user name or password; leave them out", param="url")
    if not gateway.settings.webhook_allow_private and _is_private(host):
        raise InvalidInput(
            f"{host} is a private or loopback address; HELIU_WEBHOOK_ALLOW_PRIVATE=on allows it", param="url"
        )


def _is_private(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False
