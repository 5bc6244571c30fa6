"""What is done with the versions of one dataset: tags, differences, downloads, exports, retention."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import Field

from services.gateway.answering import questions
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.datasets import croissant, version_files
from services.gateway.datasets import repository as datasets_repository
from services.gateway.datasets import warehouse_repository as repository
from services.gateway.docs import json_body
from services.gateway.jobs import shapes as job_shapes
from services.gateway.jobs.submission import submit
from services.gateway.pages import PageDep, listing
from services.gateway.shapes import unix
from shared.contracts.warehouse import DiffVersions, ExportVersion, Format, Key, SplitName
from shared.db import Connection, Row
from shared.errors import Conflict, InvalidInput, NotFound

router = APIRouter(tags=["datasets"])

TAG = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
TagName = Annotated[str, PathParameter(pattern=TAG)]
VersionName = Annotated[str, Query(min_length=1, max_length=128)]


class MoveTag(Body):
    """`expected` is where the tag stands now, null where there is none: a tag that has moved since is not moved."""

    version: str = Field(min_length=1, max_length=128)
    expected: str | None = Field(max_length=128)


class Retention(Body):
    keep_last: int = Field(ge=1, le=10_000)
    keep_days: int = Field(0, ge=0, le=36_500)


class Export(Body):
    format: Format = "jsonl"
    split: SplitName | None = None


MOVE_EXAMPLE = {
    "version": "dsv-0123456789abcdef0123456789abcdef",
    "expected": "dsv-fedcba9876543210fedcba9876543210",
}


@router.get("/v1/datasets/{name}/tags", summary="Named pointers at versions")
def list_tags(name: str, gateway: GatewayDep, caller: CallerDep, page: PageDep) -> dict[str, Any]:
    """By name."""
    with gateway.db.transaction(caller.tenant) as connection:
        dataset = _dataset(connection, caller, name)
        rows = repository.tags(
            connection, caller.tenant, dataset["id"], after=page.after, limit=page.limit + 1
        )
    shown = [_tag(row, dataset) for row in rows[: page.limit]]
    return listing(shown, len(rows) > page.limit, key=lambda row: str(row["name"]))


@router.put(
    "/v1/datasets/{name}/tags/{tag}", summary="Move a named pointer", **json_body(MoveTag, MOVE_EXAMPLE)
)
def move_tag(
    name: str,
    tag: TagName,
    gateway: GatewayDep,
    request: Annotated[Incoming[MoveTag], Depends(incoming(MoveTag))],
) -> dict[str, Any]:
    """From `expected` to `version`, or not at all: 409 where somebody else moved it first. The same move again is
    fine."""
    body, tenant = request.body, request.caller.tenant
    with gateway.db.transaction(tenant) as connection:
        dataset = _dataset(connection, request.caller, name)
        if not repository.hold_version(connection, tenant, dataset["id"], body.version):
            raise NotFound(f"dataset {name!r} has no version {body.version!r}", param="version")
        at = repository.tagged(connection, tenant, dataset["id"], tag)
        moved = None
        if at == body.version:
            (moved,) = repository.tags(connection, tenant, dataset["id"], name=tag)
        elif at == body.expected:
            moved = repository.set_tag(
                connection,
                tenant,
                dataset["id"],
                tag,
                version=body.version,
                expected=body.expected,
                key=request.caller.key_id,
            )
        if moved is None:
            raise _elsewhere(tag, at, body.expected)
    return _tag(moved, dataset)


@router.delete("/v1/datasets/{name}/tags/{tag}", summary="Remove a named pointer")
def delete_tag(
    name: str,
    tag: TagName,
    gateway: GatewayDep,
    caller: CallerDep,
    expected: Annotated[str, Query(min_length=1, max_length=128, description="where it stands now")],
) -> dict[str, Any]:
    """The version stays."""
    with gateway.db.transaction(caller.tenant) as connection:
        dataset = _dataset(connection, caller, name)
        at = repository.tagged(connection, caller.tenant, dataset["id"], tag)
        if at is None:
            raise NotFound(f"dataset {name!r} has no tag {tag!r}", param="tag")
        if at != expected:
            raise _elsewhere(tag, at, expected)
        repository.delete_tag(connection, caller.tenant, dataset["id"], tag)
    return {"name": tag, "object": "dataset.tag", "deleted": True}


@router.get("/v1/datasets/{name}/diff", summary="What is different between two versions")
async def diff(
    request: Request,
    name: str,
    gateway: GatewayDep,
    caller: CallerDep,
    from_: Annotated[str, Query(alias="from", min_length=1, max_length=128)],
    to: VersionName,
    key: Annotated[Key | None, Query(description="what makes rows the same; told by the sources")] = None,
    samples: Annotated[int, Query(ge=0, le=100)] = 10,
) -> dict[str, Any]:
    """Rows added, removed, changed and moved to another split, exactly counted, with samples; and what each rule of
    the recipes dropped. A version is given by its id or by a tag. Rows are the same by their id in the platform where
    both versions were made of one file, and by their source's `id` otherwise."""

    def look() -> tuple[Row, Row]:
        with gateway.db.transaction(caller.tenant) as connection:
            dataset = _dataset(connection, caller, name)
            return tuple(
                _version(connection, caller, dataset, one, p) for one, p in ((from_, "from"), (to, "to"))
            )  # type: ignore[return-value]

    before, after = await to_thread.run_sync(look)
    by: Key = key or ("row" if before["file_id"] == after["file_id"] else "id")
    call = DiffVersions(before=before["artifact"], after=after["artifact"], key=by, samples=samples)
    answer = await questions.answer(request, gateway, call)
    return {
        "object": "dataset.diff",
        "from": before["id"],
        "to": after["id"],
        "key": by,
        **answer,
        "rules": _by_rule(before["report"].get("dropped"), after["report"].get("dropped")),
    }


@router.get(
    "/v1/datasets/{name}/versions/{version_id}/download",
    summary="The rows of a version as JSONL or Parquet",
    response_class=Response,
)
def download(
    name: str,
    version_id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    format: Format = "jsonl",
    split: SplitName | None = None,
    part: Annotated[
        int | None, Query(ge=0, le=100_000, description="of a Parquet version, by number")
    ] = None,
) -> Response:
    """Streamed. Parquet comes as it is stored, a part at a time; an export makes one file of them, or of a split."""
    folder, row = _files(gateway, caller, name, version_id)
    if format == "jsonl":
        if part is not None:
            raise InvalidInput("part goes with format=parquet; JSONL is one stream", param="part")
        lines: Iterator[bytes] = version_files.lines(folder, split)
        headers = {"content-disposition": f'attachment; filename="{row["id"]}.jsonl"'}
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)
    if split is not None:
        raise InvalidInput("Parquet is sent as it is stored; a split of it is an export", param="split")
    stored = version_files.parts(folder)
    if part is None and len(stored) > 1:
        raise InvalidInput(
            f"this version has {len(stored)} parts; name one with part=0 to part={len(stored) - 1}, or export it",
            param="part",
        )
    if (part or 0) >= len(stored):
        raise NotFound(f"version {version_id} has {len(stored)} parts, numbered from 0", param="part")
    chosen = stored[part or 0]
    return FileResponse(
        chosen, media_type="application/vnd.apache.parquet", filename=f"{row['id']}-{chosen.name}"
    )


@router.get("/v1/datasets/{name}/versions/{version_id}/croissant", summary="A version as Croissant JSON-LD")
def describe(
    request: Request, name: str, version_id: str, gateway: GatewayDep, caller: CallerDep
) -> dict[str, Any]:
    """Croissant 1.1 (https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html)."""
    folder, row = _files(gateway, caller, name, version_id)
    base = f"{str(request.base_url).rstrip('/')}{request.url.path.removesuffix('/croissant')}"
    return croissant.describe(row, version_files.manifest(folder), base)


@router.post(
    "/v1/datasets/{name}/versions/{version_id}/export",
    summary="A version as one file",
    **json_body(Export, {"format": "parquet"}),
)
def export(
    name: str,
    version_id: str,
    gateway: GatewayDep,
    request: Annotated[Incoming[Export], Depends(incoming(Export))],
) -> dict[str, Any]:
    """Answers with the job; its result names the file."""
    body = request.body

    def make(connection: Connection) -> ExportVersion:
        row = _version(
            connection, request.caller, _dataset(connection, request.caller, name), version_id, "version_id"
        )
        split = f"-{body.split}" if body.split else ""
        return ExportVersion(
            version_id=row["id"],
            artifact=row["artifact"],
            filename=f"{row['dataset']}-{row['id'][:16]}{split}.{body.format}",
            format=body.format,
            split=body.split,
        )

    return job_shapes.job(submit(gateway, request, ExportVersion, make))


@router.get("/v1/datasets/{name}/retention", summary="Which versions are kept")
def get_retention(name: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """What is current, tagged, or learned from is kept besides; without a retention all versions are."""
    with gateway.db.transaction(caller.tenant) as connection:
        dataset = _dataset(connection, caller, name)
        row = repository.retention(connection, caller.tenant, dataset["id"])
    return {"object": "dataset.retention", "dataset": dataset["name"], **(row or _KEEP_ALL)}


@router.put(
    "/v1/datasets/{name}/retention",
    summary="Say which versions are kept",
    **json_body(Retention, {"keep_last": 5, "keep_days": 30}),
)
def set_retention(
    name: str, gateway: GatewayDep, request: Annotated[Incoming[Retention], Depends(incoming(Retention))]
) -> dict[str, Any]:
    """The newest `keep_last` and all younger than `keep_days`; others go with the next collection of garbage."""
    body = request.body
    with gateway.db.transaction(request.caller.tenant) as connection:
        dataset = _dataset(connection, request.caller, name)
        repository.set_retention(
            connection, request.caller.tenant, dataset["id"], body.keep_last, body.keep_days
        )
    return {"object": "dataset.retention", "dataset": dataset["name"], **body.model_dump()}


@router.delete("/v1/datasets/{name}/retention", summary="Keep all versions")
def forget_retention(name: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        dataset = _dataset(connection, caller, name)
        repository.forget_retention(connection, caller.tenant, dataset["id"])
    return {"object": "dataset.retention", "dataset": dataset["name"], **_KEEP_ALL}


_KEEP_ALL: dict[str, Literal[None]] = {"keep_last": None, "keep_days": None}


def _files(gateway: Gateway, caller: CallerDep, name: str, version_id: str) -> tuple[Path, Row]:
    with gateway.db.transaction(caller.tenant) as connection:
        row = _version(connection, caller, _dataset(connection, caller, name), version_id, "version_id")
    return gateway.artifacts.materialize(row["artifact"], gateway.settings.home / "cache"), row


def _version(connection: Connection, caller: CallerDep, dataset: Row, named: str, param: str) -> Row:
    """By id or by tag."""
    tags = repository.tags(connection, caller.tenant, dataset["id"], name=named)
    found = datasets_repository.versions(
        connection,
        caller.tenant,
        dataset_id=dataset["id"],
        version_id=tags[0]["version_id"] if tags else named,
        limit=1,
    )
    if not found:
        raise NotFound(f"dataset {dataset['name']!r} has no version or tag {named!r}", param=param)
    return found[0]


def _dataset(connection: Connection, caller: CallerDep, name: str) -> Row:
    row = datasets_repository.get_dataset(connection, caller.tenant, name)
    if row is None:
        raise NotFound(f"no dataset {name!r}", param="name")
    return row


def _tag(row: Row, dataset: Row) -> dict[str, Any]:
    told = {"name": row["name"], "object": "dataset.tag", "dataset": dataset["name"]}
    return {
        **told,
        "version": row["version_id"],
        "moves": row["moves"],
        "moved_at": unix(row["moved_at"]),
    }


def _elsewhere(tag: str, at: str | None, expected: str | None) -> Conflict:
    stands = f"stands at {at}" if at is not None else "does not exist"
    meant = expected if expected is not None else "nothing (a new tag)"
    return Conflict(
        f"tag {tag!r} {stands}, and was expected at {meant}; look again and decide anew", param="expected"
    )


def _by_rule(before: dict[str, int] | None, after: dict[str, int] | None) -> list[dict[str, Any]]:
    """Rows that each rule dropped, where the two numbers differ."""
    old, new = before or {}, after or {}
    told = ((rule, old.get(rule, 0), new.get(rule, 0)) for rule in sorted(old.keys() | new.keys()))
    return [{"rule": rule, "from": was, "to": is_} for rule, was, is_ in told if was != is_]
