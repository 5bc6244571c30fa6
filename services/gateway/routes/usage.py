"""`/v1/usage`: tokens and seconds by day and model."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query

from services.gateway.answering import usage_repository
from services.gateway.context import CallerDep, GatewayDep
from shared.errors import InvalidInput

router = APIRouter(tags=["usage"])

MOST_DAYS = 366


@router.get("/v1/usage", summary="Tokens by day and model")
def usage(
    gateway: GatewayDep,
    caller: CallerDep,
    start_date: Annotated[date | None, Query(description="first day, UTC; 30 days ago by default")] = None,
    end_date: Annotated[date | None, Query(description="last day, UTC; today by default")] = None,
    model: Annotated[str | None, Query(max_length=256)] = None,
) -> dict[str, Any]:
    """Sums of the ledger, newest day first. The last half second of answers may be missing."""
    last = end_date or datetime.now(UTC).date()
    first = start_date or max(last, date(1, 1, 31)) - timedelta(days=30)
    if not 0 <= (last - first).days < MOST_DAYS or last == date.max:
        raise InvalidInput(
            f"start_date {first} to end_date {last} must be 1 to {MOST_DAYS} days", param="start_date"
        )
    with gateway.db.transaction(caller.tenant) as connection:
        rows = usage_repository.usage_by_day(connection, first, last, model)
    data = [
        {
            "object": "usage",
            "date": str(row["day"]),
            **{name: row[name] for name in ("model", "requests", "errors", "prompt_tokens")},
            **{name: row[name] for name in ("completion_tokens", "seconds")},
            "total_tokens": row["prompt_tokens"] + row["completion_tokens"],
        }
        for row in rows
    ]
    return {"object": "list", "data": data, "has_more": False}
