"""`/v1/sources`: systems that data is synced from, and how they are reached."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from pydantic import Field

from services.gateway import keys_repository
from services.gateway.answering import questions
from services.gateway.auth import Caller, operator_only
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.datasets.recipes import check_recipe
from services.gateway.docs import json_body
from services.gateway.models import upstreams_repository
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.sources import repository as sources_repository
from services.gateway.sources import shapes as source_shapes
from shared.contracts import sources, upstream
from shared.contracts.schedule import Schedule, check_schedule, next_moment
from shared.db import Connection, Row
from shared.errors import Conflict, HeliuError, InvalidInput, NotFound
from shared.jobs import new_id
from shared.outbound import check_url

router = APIRouter(tags=["sources"])

NAME = r"^[A-Za-z0-9\u4e00-\u9fff][A-Za-z0-9\u4e00-\u9fff._-]{0,62}$"


class CreateSource(Body):
    """`credentials` depend on the kind: `password`; `bearer`, `username` and `password`, or `headers`; the keys of S3.

    `test` connects and looks before anything is written.
    """

    name: str = Field(pattern=NAME)
    connection: sources.Connection
    # Checked by hand, for whatever is wrong with them must not be told with them.
    credentials: Any = None
    options: sources.Options = sources.Options()
    schedule: Schedule | None = None
    build: sources.BuildAfter | None = None
    test: bool = True


class ChangeSource(Body):
    """What is left out stays; null takes away a schedule, a build or credentials."""

    connection: sources.Connection | None = None
    credentials: Any = None
    options: sources.Options | None = None
    schedule: Schedule | None = None
    build: sources.BuildAfter | None = None
    test: bool = True


EXAMPLE = {
    "name": "orders",
    "connection": {
        "kind": "postgres",
        "host": "db.example.com",
        "database": "shop",
        "user": "reader",
        "table": "sales.orders",
        "cursor": "updated_at",
    },
    "credentials": {"password": "..."},
    "schedule": {"cron": "30 2 * * *", "timezone": "Asia/Shanghai"},
}


@router.post("/v1/sources", summary="Add a source", **json_body(CreateSource, EXAMPLE))
async def create(
    request: Request,
    gateway: GatewayDep,
    asked: Annotated[Incoming[CreateSource], Depends(incoming(CreateSource))],
) -> dict[str, Any]:
    """Its credentials are sealed and never shown again."""
    body, caller = asked.body, asked.caller
    if body.name.startswith("src-"):
        raise InvalidInput("a name that begins with 'src-' would be taken for an id", param="name")
    _check_connection(body.connection)
    credentials = sources.check_credentials(body.connection.kind, body.credentials)
    source_id = new_id("src-")
    sealed = gateway.sealer.seal(credentials, sources.secret_name(source_id)) if credentials else None
    values = {
        "id": source_id,
        "name": body.name,
        "kind": body.connection.kind,
        "connection": body.connection.model_dump(mode="json"),
        "options": body.options.model_dump(mode="json"),
        "sealed": sealed,
        **_schedule(body.schedule),
        "build": _build(body.build),
    }
    if body.test:
        await _test(request, gateway, source_id, body.connection, sealed)

    def write() -> Row:
        with gateway.db.transaction(caller.tenant) as connection:
            row = sources_repository.insert(connection, caller.tenant, values)
            if row is None:
                raise Conflict(
                    f"there is a source {body.name!r} already", code="already_exists", param="name"
                )
            _audit(connection, caller, "source_created", row)
            return row

    return source_shapes.source(await to_thread.run_sync(write))


@router.get("/v1/sources", summary="List sources")
def list_sources(gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """Newest first; never with their credentials."""
    with gateway.db.transaction(caller.tenant) as connection:
        if page.after and not sources_repository.existed(connection, page.after):
            raise unknown_cursor(page.after)
        rows = sources_repository.listed(connection, caller.tenant, page.after, page.limit + 1)
    return listing([source_shapes.source(row) for row in rows[: page.limit]], len(rows) > page.limit)


@router.get("/v1/sources/{name}", summary="One source")
def retrieve(name: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """By name or id, with the file that is its state."""
    with gateway.db.transaction(caller.tenant) as connection:
        return source_shapes.source(find(connection, caller, name))


@router.post(
    "/v1/sources/{name}",
    summary="Change a source",
    **json_body(ChangeSource, {"schedule": EXAMPLE["schedule"]}),
)
async def change(
    name: str,
    request: Request,
    gateway: GatewayDep,
    asked: Annotated[Incoming[ChangeSource], Depends(incoming(ChangeSource))],
) -> dict[str, Any]:
    """After another connection, or other types of columns, the next sync reads everything."""
    body, caller, given = asked.body, asked.caller, asked.body.model_fields_set
    row, sealed = await to_thread.run_sync(_with_sealed, gateway, caller, name)
    if body.connection is not None:
        _check_connection(body.connection)
        if body.connection.kind != row["kind"]:
            raise InvalidInput(
                f"a source stays of its kind, {row['kind']!r}; add another one", param="connection.kind"
            )
    if "credentials" in given:
        credentials = sources.check_credentials(row["kind"], body.credentials)
        about = sources.secret_name(row["id"])
        sealed = gateway.sealer.seal(credentials, about) if credentials else None
    spec = body.connection or _spec(row)
    if body.test and ("connection" in given or "credentials" in given):
        await _test(request, gateway, row["id"], spec, sealed)

    def write() -> Row:
        with gateway.db.transaction(caller.tenant) as connection:
            now = find(connection, caller, row["id"], lock=True)
            changed = sources_repository.change(connection, _changed(body, now))
            if "credentials" in given:
                sources_repository.seal(connection, row["id"], sealed)
            _audit(connection, caller, "source_changed", changed)
            return changed

    return source_shapes.source(await to_thread.run_sync(write))


@router.post("/v1/sources/{name}/test", summary="Test the connection of a source")
async def run_test(name: str, request: Request, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Connects and looks: the columns and the key, or how many files there are. What is wrong is a 400 in words."""
    row, sealed = await to_thread.run_sync(_with_sealed, gateway, caller, name)
    told = await _test(request, gateway, row["id"], _spec(row), sealed)
    return {"object": "source.test", "name": row["name"], "ok": True, **told}


@router.delete("/v1/sources/{name}", summary="Delete a source")
def delete(name: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Its credentials are forgotten; the files that its syncs made stay."""
    with gateway.db.transaction(caller.tenant) as connection:
        row = find(connection, caller, name, lock=True)
        sources_repository.delete(connection, row["id"])
        _audit(connection, caller, "source_deleted", row)
    return {"id": row["id"], "object": "source", "deleted": True}


@router.post(
    "/v1/secrets/reseal",
    summary="Seal credentials with the newest secret",
    dependencies=[Depends(operator_only)],
)
def reseal(gateway: GatewayDep) -> dict[str, Any]:
    """Of sources and of upstream models. After a new secret was put in front and this has run, the old one is needed
    no more."""
    done = 0
    with gateway.db.core() as connection:
        for row in sources_repository.all_sealed(connection):
            if not gateway.sealer.is_current(row["sealed"]):
                about = sources.secret_name(row["id"])
                again = gateway.sealer.seal(gateway.sealer.open(row["sealed"], about), about)
                sources_repository.seal(connection, row["id"], again)
                done += 1
        for row in upstreams_repository.all_keys(connection):
            if not gateway.sealer.is_current(row["api_key"]):
                about = upstream.secret_name(row["id"])
                key = gateway.sealer.open_or_plain(row["api_key"], about)
                upstreams_repository.seal(connection, row["id"], gateway.sealer.seal(key, about))
                done += 1
    return {"object": "secrets.reseal", "resealed": done}


def find(connection: Connection, caller: Caller, name: str, *, lock: bool = False) -> Row:
    """The caller's source by name or id. Raises NotFound."""
    row = sources_repository.find(connection, caller.tenant, name, lock=lock)
    if row is None:
        raise NotFound(f"no source {name!r}", param="name")
    return row


async def _test(
    request: Request, gateway: Gateway, source_id: str, spec: Any, sealed: str | None
) -> dict[str, Any]:
    call = sources.TestSource(source_id=source_id, connection=spec, sealed=sealed)
    return await questions.answer(request, gateway, call)


def _with_sealed(gateway: Gateway, caller: Caller, name: str) -> tuple[Row, str | None]:
    with gateway.db.transaction(caller.tenant) as connection:
        row = find(connection, caller, name)
    with gateway.db.core() as connection:
        return row, sources_repository.sealed_of(connection, row["id"])


def _spec(row: Mapping[str, Any]) -> Any:
    return sources.TestSource(source_id=row["id"], connection=row["connection"]).connection


def _check_connection(spec: sources.Connection) -> None:
    """Refuse what can be seen to be wrong; each connection judges what the name stands for then."""
    url, param = {
        "http": (getattr(spec, "url", None), "url"),
        "s3": (getattr(spec, "endpoint", None), "endpoint"),
    }.get(spec.kind, (None, ""))
    if url is not None:
        try:
            check_url(url)
        except HeliuError as exc:
            raise InvalidInput(exc.message, code=exc.code, param=f"connection.{param}") from exc
    if isinstance(spec, sources.Api):
        for name, value in spec.headers.items():
            if not sources.check_header(name) or not (value.isascii() and value.isprintable()):
                raise InvalidInput(
                    "headers takes names of HTTP headers with values of printable ASCII; those that are secret go "
                    "into credentials.headers",
                    param="connection.headers",
                )


def _schedule(schedule: Schedule | None) -> dict[str, Any]:
    if schedule is None:
        return {"cron": None, "timezone": "UTC", "next_at": None}
    check_schedule(schedule, "schedule")
    return {**schedule.model_dump(), "next_at": next_moment(schedule, datetime.now(UTC))}


def _build(build: sources.BuildAfter | None) -> dict[str, Any] | None:
    if build is not None and build.recipe is not None:
        check_recipe(build.recipe, "build.recipe")
    return build.model_dump(mode="json") if build is not None else None


def _changed(body: ChangeSource, row: Row) -> dict[str, Any]:
    given = body.model_fields_set
    connection = body.connection.model_dump(mode="json") if body.connection is not None else row["connection"]
    options = body.options.model_dump(mode="json") if body.options is not None else row["options"]
    schedule = {name: row[name] for name in ("cron", "timezone", "next_at")}
    return {
        "id": row["id"],
        "connection": connection,
        "options": options,
        **(_schedule(body.schedule) if "schedule" in given else schedule),
        "build": _build(body.build) if "build" in given else row["build"],
        "stale": connection != row["connection"] or options["types"] != row["options"]["types"],
    }


def _audit(connection: Connection, caller: Caller, action: str, row: Row) -> None:
    data = {"connection": row["connection"], "options": row["options"]}
    keys_repository.audit(connection, caller.tenant, caller.key_id or "local", action, row["name"], data)
