"""Which jobs wait for which, at the moment that they are told to."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from shared.db import Connection, Row

PARENTS = "SELECT id, state FROM core.job WHERE id = ANY(%s) ORDER BY id FOR SHARE"

DEPEND = """
INSERT INTO core.dependency (parent_id, child_id, tenant_id, on_failure) VALUES (%s, %s, %s, %s)
ON CONFLICT DO NOTHING"""


def lock_parents(connection: Connection, ids: Sequence[str]) -> list[Row]:
    """`id` and `state` of those that exist, locked in the order of their ids, so that none ends unseen."""
    return connection.execute(PARENTS, (list(ids),)).fetchall()


def depend(connection: Connection, parent: str, child: str, tenant: UUID, on_failure: str) -> None:
    """Have the end of `parent` count for `child`; `on_failure` is `continue` or `fail`."""
    connection.execute(DEPEND, (parent, child, tenant, on_failure))
