"""`/v1/blobs`: content by hash, which an import of a model is made of. What is there already is not sent again."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request

from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.reading import chunks, refuse_encoding
from services.gateway.uploads import blobs_repository
from services.gateway.uploads.blobs import PartialBlob
from shared.db import retrying
from shared.errors import HeliuError, NotFound

router = APIRouter(tags=["models"])

BlobId = Annotated[str, Path(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
BODY: dict[str, Any] = {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    }
}


@router.get("/v1/blobs/{blob}", summary="How much of an object is here")
def retrieve(
    blob: BlobId,
    gateway: GatewayDep,
    caller: CallerDep,
) -> dict[str, Any]:
    """What this tenant has sent of it: `received` is where the rest begins; a 404 says that nothing is here."""
    held = _held(gateway, caller, blob)
    if held is not None:
        return _shape(blob, held, held)
    received = PartialBlob(gateway.artifacts, caller.tenant, blob, 0).received
    if not received:
        raise NotFound(f"nothing of {blob} is here; PUT it", param="blob")
    return _shape(blob, received, None)


@router.put("/v1/blobs/{blob}", summary="Send an object, or the next part of it", **BODY)
async def put(
    request: Request,
    blob: BlobId,
    gateway: GatewayDep,
    caller: CallerDep,
    size: Annotated[int, Query(ge=0, description="bytes of the whole object")],
    offset: Annotated[int, Query(ge=0, description="where this part begins")] = 0,
) -> dict[str, Any]:
    """The body is appended at `offset`, and stays when the connection breaks. Whole, its hash must be its name."""
    refuse_encoding(request)
    limit = gateway.settings.max_model_bytes
    if size > limit:
        raise HeliuError(
            f"an object of {size} bytes is over the limit of {limit} for a model (HELIU_MAX_MODEL_BYTES)",
            code="file_too_large",
            param="size",
        )
    held = await to_thread.run_sync(_held, gateway, caller, blob)
    if held is not None:
        return _shape(blob, held, held)
    partial = PartialBlob(gateway.artifacts, caller.tenant, blob, size)
    stream = chunks(request, gateway.settings.body_silence_seconds)
    async with gateway.uploads.of(caller.tenant):
        whole = await to_thread.run_sync(partial.append, offset, stream, limiter=gateway.uploads.all)
    if not whole:
        return _shape(blob, partial.received, None)
    await to_thread.run_sync(_remember, gateway, caller, blob, size)
    return _shape(blob, size, size)


def _held(gateway: Gateway, caller: CallerDep, blob: str) -> int | None:
    with gateway.db.transaction(caller.tenant) as connection:
        return blobs_repository.held(connection, caller.tenant, [blob]).get(blob)


def _remember(gateway: Gateway, caller: CallerDep, blob: str, size: int) -> None:
    def once() -> None:
        with gateway.db.transaction(caller.tenant) as connection:
            blobs_repository.add_blob(connection, caller.tenant, blob, size)

    retrying(once, attempts=4)


def _shape(blob: str, received: int, size: int | None) -> dict[str, Any]:
    return {"id": blob, "object": "blob", "received": received, "bytes": size, "complete": size is not None}
