"""`/v1/models`: what can be asked, by name."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from services.gateway import repository_models, shapes
from services.gateway.context import CallerDep, GatewayDep
from services.gateway.pages import listing
from services.gateway.resolve import model_row

router = APIRouter(tags=["models"])

MOST = 10_000


@router.get("/v1/models", summary="List models")
def list_models(gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """All of the tenant's models, newest first; this list has no pages, as OpenAI's has none."""
    with gateway.db.transaction(caller.tenant) as connection:
        rows = repository_models.list_models(connection, caller.tenant, MOST)
    return listing([shapes.model(row, caller.tenant_name) for row in rows], False)


@router.get("/v1/models/{model}", summary="One model")
def retrieve(model: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    with gateway.db.transaction(caller.tenant) as connection:
        return shapes.model(model_row(connection, caller.tenant, model), caller.tenant_name)


@router.delete("/v1/models/{model}", summary="Delete a model")
def delete(model: str, gateway: GatewayDep, caller: CallerDep) -> dict[str, Any]:
    """The name is gone at once; answers that are being made end as they began."""
    with gateway.db.transaction(caller.tenant) as connection:
        model_row(connection, caller.tenant, model)
        repository_models.delete_model(connection, caller.tenant, model)
    return {"id": model, "object": "model", "deleted": True}
