"""The rows' part of lineage, asked of workers of data governance: where a row is, and which rows a version has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request

from services.gateway.answering import questions
from services.gateway.context import Gateway
from shared.contracts.lineage import MAX_VERSIONS, FindRows, VersionAt, VersionRows
from shared.db import Row


async def find(
    request: Request, gateway: Gateway, versions: Sequence[Row], row_ids: Sequence[str]
) -> list[dict[str, Any]]:
    """Every place of the rows in these versions (`id`, `artifact`)."""
    found: list[dict[str, Any]] = []
    for start in range(0, len(versions), MAX_VERSIONS):
        some = versions[start : start + MAX_VERSIONS]
        at = tuple(VersionAt(id=row["id"], artifact=row["artifact"]) for row in some)
        answer = await questions.answer(request, gateway, FindRows(versions=at, row_ids=tuple(row_ids)))
        found += answer["found"]
    return found


async def listed(
    request: Request, gateway: Gateway, artifact: str, offset: int, limit: int
) -> dict[str, Any]:
    """A page of a version's rows, as a list object."""
    answer = await questions.answer(
        request, gateway, VersionRows(artifact=artifact, offset=offset, limit=limit)
    )
    rows = answer["rows"]
    more = offset + len(rows) < answer["total"]
    return {"object": "list", "data": rows, "total": answer["total"], "has_more": more}
