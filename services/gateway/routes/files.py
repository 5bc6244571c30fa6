"""`/v1/files`: what tenants upload and what the platform makes for them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse

from services.gateway.complaints import short
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.docs import upload_body
from services.gateway.errors import RangeNotSatisfiable
from services.gateway.models.resolve import file_row
from services.gateway.pages import listing, unknown_cursor
from services.gateway.registry.evidence import check_file_unused
from services.gateway.uploads import multipart as uploads
from services.gateway.uploads import repository as files_repository
from services.gateway.uploads import shapes as upload_shapes
from shared.db import retrying
from shared.errors import InvalidInput, NotFound
from shared.jobs import new_id

router = APIRouter(tags=["files"])

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
LEAST_S, MOST_S = 3600, 2_592_000
RANGE = re.compile(r"^(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))$")


@router.post("/v1/files", summary="Upload a file", **upload_body())
async def upload(request: Request, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Streamed into the artifact store; the file is usable at once (`processed`)."""
    got = await uploads.receive(
        request,
        gateway.artifacts,
        max_bytes=gateway.settings.max_upload_bytes,
        silence_s=gateway.settings.body_silence_seconds,
        slots=gateway.uploads,
        tenant=caller.tenant,
    )
    purpose, expires_after = _checked_fields(dict(got.fields))
    file_id = new_id("file-")

    def insert() -> dict[str, Any]:
        with gateway.db.transaction(caller.tenant) as connection:
            earlier = files_repository.get_file(connection, file_id)
            return upload_shapes.file(
                earlier
                or files_repository.insert_file(
                    connection,
                    file_id,
                    caller.tenant,
                    filename=got.filename,
                    purpose=purpose,
                    bytes_=got.size,
                    artifact=got.artifact,
                    expires_after=expires_after,
                )
            )

    return await to_thread.run_sync(lambda: retrying(insert, attempts=4))


def _checked_fields(fields: dict[str, str]) -> tuple[str, timedelta | None]:
    purpose = fields.pop("purpose", None)
    if purpose is None:
        raise InvalidInput(
            "missing required parameter 'purpose'", code="missing_required_parameter", param="purpose"
        )
    if purpose not in PURPOSES:
        raise InvalidInput(f"purpose {short(purpose)} is not one of {', '.join(PURPOSES)}", param="purpose")
    anchor = fields.pop("expires_after[anchor]", None)
    seconds = fields.pop("expires_after[seconds]", None)
    if fields:
        name = sorted(fields)[0][:80]
        raise InvalidInput(f"unknown parameter {name!r}", code="unknown_parameter", param=name)
    if anchor is None and seconds is None:
        return purpose, None
    if anchor != "created_at":
        raise InvalidInput(
            f"expires_after[anchor] must be 'created_at', got {short(anchor)}", param="expires_after[anchor]"
        )
    if seconds is None or not seconds.isascii() or not seconds.isdecimal() or len(seconds) > 9:
        raise InvalidInput(
            f"expires_after[seconds] must be a whole number, got {short(seconds)}",
            param="expires_after[seconds]",
        )
    if not LEAST_S <= int(seconds) <= MOST_S:
        raise InvalidInput(
            f"expires_after[seconds] must be {LEAST_S} to {MOST_S}, got {seconds}",
            param="expires_after[seconds]",
        )
    return purpose, timedelta(seconds=int(seconds))


@router.get("/v1/files", summary="List files")
def list_files(
    gateway: GatewayDep,
    caller: CallerDep,
    after: Annotated[str | None, Query(max_length=256)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=64)] = None,
) -> dict[str, Any]:
    """The tenant's files, output files of batches too."""
    with gateway.db.transaction(caller.tenant) as connection:
        if after and not files_repository.file_existed(connection, after):
            raise unknown_cursor(after)
        rows = files_repository.list_files(
            connection,
            caller.tenant,
            purpose=purpose,
            after=after or None,
            limit=limit + 1,
            newest_first=order == "desc",
        )
    return listing([upload_shapes.file(row) for row in rows[:limit]], len(rows) > limit)


@router.get("/v1/files/{file_id}", summary="One file")
def retrieve(file_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    return upload_shapes.file(_row(gateway, caller, file_id))


@router.get("/v1/files/{file_id}/content", summary="The bytes of a file", response_class=FileResponse)
def content(file_id: str, request: Request, gateway: GatewayDep, caller: CallerDep) -> FileResponse:
    """All of them, or those that `Range` asks for."""
    row = _row(gateway, caller, file_id)
    asked = request.headers.get("range")
    if asked is not None:
        _check_range(asked, row["bytes"])
    path = gateway.artifacts.path(row["artifact"])
    return FileResponse(path, media_type="application/octet-stream", filename=row["filename"])


def _check_range(asked: str, size: int) -> None:
    """Refuse a Range that the framework would refuse in words of its own. RFC 9110, section 14."""
    unit, _, parts = asked.partition("=")
    found = [RANGE.match(part.strip()) for part in parts.split(",")]
    if unit.strip().lower() != "bytes" or not all(found):
        raise InvalidInput(f"Range {short(asked)} is not of the form bytes=FIRST-LAST", param="Range")
    for match in found:
        assert match is not None
        first, last, suffix = match.groups()
        if first and last and int(first) > int(last):
            raise InvalidInput(f"Range {short(asked)} ends before it begins", param="Range")
        if (first and int(first) >= size) or (suffix and int(suffix) == 0):
            raise RangeNotSatisfiable(short(asked), size)


@router.delete("/v1/files/{file_id}", summary="Delete a file")
def delete(file_id: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """Jobs that were given the file keep its content. Refused while a registered model is gated by its items."""
    with gateway.db.transaction(caller.tenant) as connection:
        check_file_unused(connection, caller.tenant, file_id)
        if not files_repository.delete_file(connection, file_id):
            raise NotFound(f"no file {file_id!r}", param="file_id")
    return {"id": file_id, "object": "file", "deleted": True}


def _row(gateway: Gateway, caller: CallerDep, file_id: str) -> Any:
    with gateway.db.transaction(caller.tenant) as connection:
        return file_row(connection, file_id, param="file_id")
