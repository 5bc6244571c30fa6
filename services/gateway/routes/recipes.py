"""`/v1/recipes`: what a recipe would make of files, before anything is built."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from pydantic import Field

from services.gateway.answering import questions
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import GatewayDep
from services.gateway.datasets.recipes import check_recipe
from services.gateway.docs import json_body
from services.gateway.models import resolve
from services.gateway.routes.datasets import FileId
from shared.contracts.data_governance import MOST_SOURCES, BuildSource, TryRecipe

router = APIRouter(tags=["datasets"])


class Try(Body):
    """The first `rows` of each file go through; `shown` of those that would be kept are in the answer."""

    file_ids: list[FileId] = Field(min_length=1, max_length=MOST_SOURCES)
    recipe: dict[str, Any] | None = None
    rows: int = Field(default=1000, ge=1, le=10_000)
    shown: int = Field(default=10, ge=0, le=100)


EXAMPLE = {"file_ids": ["file-0123456789abcdef01234567"], "recipe": {"steps": [{"op": "normalize_text"}]}}


@router.post("/v1/recipes/try", summary="Try a recipe on the first rows", **json_body(Try, EXAMPLE))
async def try_recipe(
    http: Request, gateway: GatewayDep, request: Annotated[Incoming[Try], Depends(incoming(Try))]
) -> dict[str, Any]:
    """The recipe with its mapping written out, the report it would give, and some rows. Nothing is stored."""
    body, caller = request.body, request.caller
    if body.recipe is not None:
        check_recipe(body.recipe)

    def named() -> list[BuildSource]:
        with gateway.db.transaction(caller.tenant) as connection:
            files = [
                resolve.file_row(connection, one, param=f"file_ids[{at}]")
                for at, one in enumerate(body.file_ids)
            ]
        return [
            BuildSource(file_id=file["id"], artifact=file["artifact"], name=file["filename"])
            for file in files
        ]

    sources = await to_thread.run_sync(named)
    call = TryRecipe(sources=sources, recipe=body.recipe, rows=body.rows, shown=body.shown)
    return {"object": "recipe.try", **await questions.answer(http, gateway, call)}
