"""`/v1/sql`: one SELECT over a tenant's dataset versions, answered by a worker of data governance."""

from __future__ import annotations

import re
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request
from pydantic import Field

from services.gateway.answering import questions
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import GatewayDep
from services.gateway.datasets import warehouse_repository as repository
from services.gateway.docs import json_body
from shared.contracts.warehouse import (
    MAX_RESULT_ROWS,
    MAX_SECONDS,
    MAX_SQL,
    MAX_TABLES,
    QueryVersions,
    Table,
)
from shared.errors import HeliuError, InvalidInput

router = APIRouter(tags=["datasets"])

VERSION_ID = re.compile(r"dsv-[0-9a-f]{32}")
NAMES_TOLD = 20


class Query(Body):
    """DuckDB's SQL. A dataset's name is its current version, `name@tag` the tagged one, a version's id itself; names
    with other marks than letters, digits and _ stand in double quotes."""

    sql: str = Field(min_length=1, max_length=MAX_SQL)
    max_rows: int = Field(1000, ge=1, le=MAX_RESULT_ROWS)
    max_seconds: int = Field(10, ge=1, le=MAX_SECONDS)


EXAMPLE = {"sql": 'SELECT label, count(*) AS n FROM "service-dialogues" GROUP BY label ORDER BY n DESC'}


@router.post("/v1/sql", summary="Ask versions with SQL", **json_body(Query, EXAMPLE))
async def query(
    request: Request, gateway: GatewayDep, asked: Annotated[Incoming[Query], Depends(incoming(Query))]
) -> dict[str, Any]:
    """Reads versions and nothing else: no file, no network, no setting. A result is cut at `max_rows` and at 4 MiB,
    and says so in `truncated`."""
    body, tenant = asked.body, asked.caller.tenant

    def look() -> tuple[list[Table], list[str]]:
        with gateway.db.transaction(tenant) as connection:
            ids = sorted(set(VERSION_ID.findall(body.sql)))
            rows = repository.named(connection, tenant, body.sql, ids, MAX_TABLES + 1)
            return [Table(**row) for row in rows], repository.names(connection, tenant, NAMES_TOLD)

    tables, names = await to_thread.run_sync(look)
    if len(tables) > MAX_TABLES:
        raise InvalidInput(f"the query names more than {MAX_TABLES} versions", param="sql")
    call = QueryVersions(
        sql=body.sql, tables=tuple(tables), max_rows=body.max_rows, max_seconds=body.max_seconds
    )
    try:
        answer = await questions.answer(request, gateway, call)
    except HeliuError as exc:
        if exc.code == "invalid_sql" and "does not exist" in exc.message and "Table" in exc.message:
            there = ", ".join(f'"{name}"' for name in names) or "none yet"
            exc.message += f"\n\nDatasets that can be asked: {there}"
        raise
    return {"object": "query.result", **answer}
