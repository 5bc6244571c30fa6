"""Cursor lists: what a client may ask, and the page that it gets. Knows no SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query

from shared.errors import InvalidInput


@dataclass(frozen=True)
class Page:
    """`after` is the id of the last item of the page before."""

    after: str | None
    limit: int


def _page(
    after: Annotated[str | None, Query(max_length=256, description="id of the last item seen")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page:
    return Page(after or None, limit)


PageDep = Annotated[Page, Depends(_page)]


def listing(
    rows: Sequence[Mapping[str, Any]],
    has_more: bool,
    *,
    key: Callable[[Mapping[str, Any]], str] | None = None,
) -> dict[str, Any]:
    """The list object that the openai client pages through."""
    of = key or (lambda row: str(row["id"]))
    return {
        "object": "list",
        "data": list(rows),
        "first_id": of(rows[0]) if rows else None,
        "last_id": of(rows[-1]) if rows else None,
        "has_more": has_more,
    }


def unknown_cursor(after: str) -> InvalidInput:
    """Ignoring a cursor would send the openai client round for ever."""
    return InvalidInput(f"no item {after!r} to go on after; send the last id of a page", param="after")
