"""Stored chats in Postgres: the SQL that gateway and workers share. Knows neither shapes nor who asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from shared.contracts.stored_chats import ChatFilter, Chosen, StoredBody
from shared.db import Connection, Row

Order = Literal["asc", "desc"]
PAGE = 200

# The same answer once more, from whoever took its stream up, changes nothing.
ADD = """
INSERT INTO gateway.stored_chat (tenant_id, id, created_at, model, models, metadata, api_key_id, body)
VALUES (%(tenant)s, %(id)s, to_timestamp(%(created)s), %(model)s, %(models)s, %(metadata)s::jsonb, %(key)s,
    %(body)s::json)
ON CONFLICT (tenant_id, id) DO NOTHING"""

WANTED = """
tenant_id = %(tenant)s AND deleted_at IS NULL AND (%(model)s::text IS NULL OR %(model)s = ANY(models))
AND metadata @> %(metadata)s::jsonb
AND (%(after)s::bigint IS NULL OR created_at >= to_timestamp(%(after)s))
AND (%(before)s::bigint IS NULL OR created_at <= to_timestamp(%(before)s))"""

PAGES = f"""
SELECT id, number, created_at, model, metadata, body FROM gateway.stored_chat
WHERE {WANTED} AND (%(number)s::bigint IS NULL OR (created_at, number) {{beyond}} (%(at)s::timestamptz, %(number)s))
ORDER BY created_at {{order}}, number {{order}} LIMIT %(limit)s"""

COUNT = f"""
SELECT count(*)::int AS chats FROM (
    SELECT 1 FROM gateway.stored_chat WHERE {WANTED} ORDER BY created_at DESC, number DESC LIMIT %(limit)s) found"""


@dataclass(frozen=True)
class StoredChat:
    """One chat, under the id of its answer. `models` are the names that it is looked for by, `body` is a StoredBody's
    JSON."""

    id: str
    model: str
    models: tuple[str, ...]
    body: dict[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)
    api_key_id: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a chat stands among its tenant's."""

    at: datetime
    number: int


@dataclass(frozen=True)
class Found:
    """A chat as it is read back."""

    id: str
    model: str
    metadata: dict[str, str]
    body: StoredBody
    place: Place


def add(connection: Connection, tenant: UUID, chat: StoredChat) -> None:
    """Store a chat; one that is there stays as it is."""
    values = {
        "tenant": tenant,
        "id": chat.id,
        "created": chat.body["created"],
        "model": chat.model,
        "models": list(chat.models),
        "metadata": json.dumps(chat.metadata),
        "key": chat.api_key_id,
        # Escaped, so that a text may hold what UTF-8 cannot.
        "body": json.dumps(chat.body),
    }
    connection.execute(ADD, values)


def page(
    connection: Connection, tenant: UUID, wanted: ChatFilter, *, after: Place | None, limit: int, order: Order
) -> list[Found]:
    """The next chats behind a place, in the order of their time."""
    query = PAGES.format(order=order, beyond=">" if order == "asc" else "<")
    place = {"at": after.at if after else None, "number": after.number if after else None}
    values = {**_values(tenant, wanted), **place, "limit": limit}
    return [found(row) for row in connection.execute(query, values).fetchall()]


def count(connection: Connection, tenant: UUID, chosen: Chosen) -> int:
    """How many there are, up to the limit."""
    row = connection.execute(COUNT, {**_values(tenant, chosen), "limit": chosen.limit}).fetchone()
    assert row is not None
    return int(row["chats"])


def each(
    transaction: Callable[[], AbstractContextManager[Connection]], tenant: UUID, chosen: Chosen
) -> Iterator[Found]:
    """The chosen ones, the newest first, a page a transaction; one that is deleted meanwhile may be left out."""
    last: Place | None = None
    left = chosen.limit
    while left > 0:
        with transaction() as connection:
            some = page(connection, tenant, chosen, after=last, limit=min(PAGE, left), order="desc")
        yield from some
        if len(some) < min(PAGE, left):
            return
        last, left = some[-1].place, left - len(some)


def found(row: Row) -> Found:
    place = Place(row["created_at"], row["number"])
    return Found(row["id"], row["model"], row["metadata"], StoredBody.model_validate(row["body"]), place)


def _values(tenant: UUID, wanted: ChatFilter) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "model": wanted.model,
        "metadata": json.dumps(wanted.metadata),
        "after": wanted.created_after,
        "before": wanted.created_before,
    }
