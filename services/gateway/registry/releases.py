"""From a registered name to the version that answers: production, or for a share of the callers its canary.

Asked of Postgres for each request, so that a promotion or a roll-back holds from the next one on.
"""

from __future__ import annotations

import difflib
from typing import Any
from uuid import UUID

from services.gateway.registry import repository
from shared import semconv
from shared.contracts.model_registry import PREFIX, RegisteredRoute, ReleaseUsed, shares
from shared.db import Connection, Row
from shared.errors import NotFound
from shared.task.split import choose

HEADER = "x-heliu-registry-version"
# Of a request that says nothing of its caller: production.
NOBODY = None


def registered(
    connection: Connection, tenant: UUID, name: str, *, param: str = "name", code: str | None = None
) -> Row:
    """The tenant's registered model; raises NotFound with a near name."""
    row = repository.get(connection, tenant, name)
    if row is None:
        near = difflib.get_close_matches(name, repository.names(connection, tenant), 1)
        hint = f"; did you mean {near[0]!r}?" if near else "; GET /v1/registry lists those that do"
        raise NotFound(f"the registered model {name[:80]!r} does not exist{hint}", code=code, param=param)
    return row


def version(
    connection: Connection, found: Row, number: int, *, param: str = "version", code: str | None = None
) -> Row:
    """A version of a registered model; raises NotFound that says which there are."""
    row = repository.version(connection, found["id"], number) if 1 <= number <= found["latest"] else None
    if row is None:
        has = f"it has 1 to {found['latest']}" if found["latest"] else "it has none yet"
        raise NotFound(
            f"the registered model {found['name']!r} has no version {number}; {has}", code=code, param=param
        )
    return row


def release(
    connection: Connection, tenant: UUID, name: str, number: int | None, key: str | None, param: str
) -> tuple[str, ReleaseUsed]:
    """(model, version) that this caller gets. Raises NotFound (`model_not_found`), as for a model."""
    code = "model_not_found"
    found = registered(connection, tenant, name, param=param, code=code)
    if number is None:
        if found["production"] is None:
            raise NotFound(
                f"{PREFIX}{name} has no version in production yet; promote one, or ask for {PREFIX}{name}@1",
                code=code,
                param=param,
            )
        weights = shares(found["production"], found["canary"], found["share"])
        number = found["production"] if key is NOBODY else choose(found["id"], weights, key)
    row = version(connection, found, number, param=param, code=code)
    return str(row["model_id"]), ReleaseUsed(name=name, version=number)


def batch_routes(connection: Connection, tenant: UUID, limit: int) -> dict[str, RegisteredRoute]:
    """Every registered model that a row of a batch may name, as its callers are shared at this moment."""
    found = {}
    for row in repository.routes(connection, tenant, limit):
        routed = row["production"] is not None
        weights = shares(row["production"], row["canary"], row["share"]) if routed else ()
        models = tuple((int(number), str(model)) for number, model in row["models"])
        found[str(row["name"])] = RegisteredRoute(id=row["id"], weights=weights, models=models)
    return found


def attributes(used: ReleaseUsed | None) -> dict[str, Any]:
    """What a span says of it."""
    return {semconv.REGISTRY: used.name, semconv.REGISTRY_VERSION: used.version} if used else {}


def headers(used: ReleaseUsed | None) -> dict[str, str]:
    """What the answer's headers say of it."""
    return {HEADER: used.label} if used else {}
