"""SQL of labellers at work: leases on items, what they say, and what comes of it.

Turns of an item are only changed under the lock of its row, but for renewals of one's own, which come first in a
transaction; claims and reclaims pass over what is locked. So no two transactions wait for each other in a ring.
An item counts its labels and living leases in its own row, where claims at once meet. What was said is appended by
grant.
"""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

Role = Literal["label", "adjudicate"]

# One call at a time for one labeller, whose second tab would otherwise claim beside the first.
ME = """
SELECT l.id, l.name, l.adjudicates, p.id AS project_id, p.name AS project_name, p.spec
FROM data_governance.label_labeller l JOIN data_governance.label_project p ON p.id = l.project_id
WHERE l.id = %s AND p.id = %s AND p.deleted_at IS NULL"""

LOCK_ME = "SELECT 1 FROM data_governance.label_labeller WHERE id = %s FOR NO KEY UPDATE"

RENEW = """
UPDATE data_governance.label_turn SET until = clock_timestamp() + %(lease)s * interval '1 second'
WHERE labeller_id = %(me)s AND project_id = %(project)s AND role = %(role)s AND state = 'leased'"""

RECLAIM = """
WITH due AS (
    SELECT i.id FROM data_governance.label_item i WHERE i.id IN (
        SELECT item_id FROM data_governance.label_turn
        WHERE project_id = %(project)s AND state = 'leased' AND until < clock_timestamp() LIMIT 200)
    ORDER BY i.id FOR UPDATE SKIP LOCKED),
over AS (
    SELECT t.item_id, t.labeller_id, t.role FROM data_governance.label_turn t JOIN due ON due.id = t.item_id
    WHERE t.state = 'leased' AND t.until < clock_timestamp() FOR UPDATE OF t SKIP LOCKED),
gone AS (
    DELETE FROM data_governance.label_turn t USING over o
    WHERE t.item_id = o.item_id AND t.labeller_id = o.labeller_id AND t.role = o.role
    RETURNING t.item_id, t.role)
UPDATE data_governance.label_item i
SET taken = greatest(0, i.taken - g.labels), adjudicating = i.adjudicating AND NOT g.adjudicated
FROM (SELECT item_id, (count(*) FILTER (WHERE role = 'label'))::int AS labels, bool_or(role = 'adjudicate')
    AS adjudicated FROM gone GROUP BY item_id) g
WHERE i.id = g.item_id"""

_TURNS = """
INSERT INTO data_governance.label_turn (item_id, labeller_id, role, tenant_id, project_id, state, until, updated_at)
SELECT id, %(me)s, %(role)s, %(tenant)s, %(project)s, 'leased',
    clock_timestamp() + %(lease)s * interval '1 second', now() FROM taken"""

CLAIM = f"""
WITH chosen AS (
    SELECT i.id FROM data_governance.label_item i
    WHERE i.project_id = %(project)s AND i.state = 'open' AND i.taken < i.needed AND NOT EXISTS (
        SELECT 1 FROM data_governance.label_turn t WHERE t.item_id = i.id AND t.labeller_id = %(me)s)
    ORDER BY i.priority DESC, i.position LIMIT %(count)s FOR UPDATE SKIP LOCKED),
taken AS (
    UPDATE data_governance.label_item i SET taken = i.taken + 1 FROM chosen WHERE i.id = chosen.id RETURNING i.id)
{_TURNS}"""

# Everybody may label a known item, so nobody takes it from another.
CLAIM_GOLD = f"""
WITH taken AS (
    SELECT i.id FROM data_governance.label_item i
    WHERE i.project_id = %(project)s AND i.state = 'gold' AND NOT EXISTS (
        SELECT 1 FROM data_governance.label_turn t WHERE t.item_id = i.id AND t.labeller_id = %(me)s)
    ORDER BY md5(i.id || %(me)s) LIMIT %(count)s)
{_TURNS}"""

CLAIM_DISPUTED = f"""
WITH chosen AS (
    SELECT i.id FROM data_governance.label_item i
    WHERE i.project_id = %(project)s AND i.state = 'adjudication' AND NOT i.adjudicating AND NOT EXISTS (
        SELECT 1 FROM data_governance.label_turn t WHERE t.item_id = i.id AND t.labeller_id = %(me)s
        AND (t.role = 'adjudicate' OR t.state = 'labelled'))
    ORDER BY i.priority DESC, i.position LIMIT %(count)s FOR UPDATE SKIP LOCKED),
taken AS (
    UPDATE data_governance.label_item i SET adjudicating = true FROM chosen WHERE i.id = chosen.id RETURNING i.id)
{_TURNS}"""

HELD = """
SELECT i.id, i.data, i.weak, t.until FROM data_governance.label_turn t
JOIN data_governance.label_item i ON i.id = t.item_id
WHERE t.labeller_id = %(me)s AND t.project_id = %(project)s AND t.role = %(role)s AND t.state = 'leased'
ORDER BY t.updated_at, i.priority DESC, i.position LIMIT %(limit)s"""

SEEN = """
SELECT count(*) AS seen, count(*) FILTER (WHERE i.state = 'gold') AS gold
FROM data_governance.label_turn t JOIN data_governance.label_item i ON i.id = t.item_id
WHERE t.labeller_id = %s AND t.role = 'label'"""

VALUES = """
SELECT value FROM data_governance.label_turn
WHERE item_id = %s AND role = 'label' AND state = 'labelled' ORDER BY md5(item_id || labeller_id)"""

LOCK_ITEM = "SELECT * FROM data_governance.label_item WHERE id = %s AND project_id = %s FOR UPDATE"

TURN = "SELECT * FROM data_governance.label_turn WHERE item_id = %s AND labeller_id = %s"

PUT_TURN = """
INSERT INTO data_governance.label_turn AS t (item_id, labeller_id, role, tenant_id, project_id, state, value)
VALUES (%(item)s, %(me)s, %(role)s, %(tenant)s, %(project)s, %(state)s, %(value)s)
ON CONFLICT (item_id, labeller_id, role) DO UPDATE
SET state = EXCLUDED.state, value = EXCLUDED.value, until = NULL, updated_at = clock_timestamp()"""

ADD_EVENT = """
INSERT INTO data_governance.label_event (tenant_id, project_id, item_id, labeller_id, kind, value, seconds)
VALUES (%(tenant)s, %(project)s, %(item)s, %(me)s, %(kind)s, %(value)s, %(seconds)s)"""

SET_ITEM = """
UPDATE data_governance.label_item SET state = %(state)s, taken = %(taken)s, adjudicating = %(adjudicating)s,
    agreement = %(agreement)s, final = %(final)s, final_by = %(final_by)s WHERE id = %(id)s"""

MINE = """
SELECT count(*) FILTER (WHERE role = 'label' AND state = 'labelled') AS labelled,
    count(*) FILTER (WHERE role = 'label' AND state = 'skipped') AS skipped,
    count(*) FILTER (WHERE role = 'adjudicate' AND state = 'labelled') AS adjudicated
FROM data_governance.label_turn WHERE labeller_id = %s"""

LEFT = """
SELECT count(*) FILTER (WHERE i.state = 'open' AND i.taken < i.needed) AS open,
    count(*) FILTER (WHERE i.state = 'adjudication' AND NOT i.adjudicating) AS adjudication
FROM data_governance.label_item i
WHERE i.project_id = %(project)s AND i.state IN ('open', 'adjudication') AND NOT EXISTS (
    SELECT 1 FROM data_governance.label_turn t WHERE t.item_id = i.id AND t.labeller_id = %(me)s
    AND NOT (i.state = 'adjudication' AND t.role = 'label' AND t.state = 'skipped'))"""

OWN = """
SELECT t.item_id AS id, t.role, t.state, t.value, t.updated_at, i.data
FROM data_governance.label_turn t JOIN data_governance.label_item i ON i.id = t.item_id
WHERE t.labeller_id = %(me)s AND t.state <> 'leased' AND t.role = 'label'
  AND (%(after)s::text IS NULL OR (t.updated_at, t.item_id) < (
       SELECT updated_at, item_id FROM data_governance.label_turn
       WHERE labeller_id = %(me)s AND item_id = %(after)s AND role = 'label'))
ORDER BY t.updated_at DESC, t.item_id DESC LIMIT %(limit)s"""

OWNED = "SELECT 1 FROM data_governance.label_turn WHERE labeller_id = %s AND item_id = %s AND role = 'label'"


def me(connection: Connection, labeller_id: str, project_id: str, *, lock: bool = False) -> Row | None:
    """The labeller with the project; with `lock`, no other call of the same labeller runs beside this one."""
    if lock:
        connection.execute(LOCK_ME, (labeller_id,))
    return connection.execute(ME, (labeller_id, project_id)).fetchone()


def renew(connection: Connection, values: dict[str, Any]) -> None:
    """Prolong what the labeller holds, and take back what others held too long."""
    connection.execute(RENEW, values)
    connection.execute(RECLAIM, values)


def claim(connection: Connection, kind: Literal["open", "gold", "disputed"], values: dict[str, Any]) -> int:
    """Lease up to `count` items that the labeller has not seen; returns how many there were."""
    query = {"open": CLAIM, "gold": CLAIM_GOLD, "disputed": CLAIM_DISPUTED}[kind]
    return connection.execute(query, values).rowcount


def held(connection: Connection, values: dict[str, Any]) -> list[Row]:
    """What the labeller holds, in the order in which it was given out."""
    return connection.execute(HELD, values).fetchall()


def seen(connection: Connection, labeller_id: str) -> tuple[int, int]:
    """(items that the labeller was given, gold ones among them)."""
    row = connection.execute(SEEN, (labeller_id,)).fetchone()
    assert row is not None
    return row["seen"], row["gold"]


def values_of(connection: Connection, item_id: str) -> list[dict[str, Any]]:
    """The blind labels of an item, in an order that tells nothing of who gave them."""
    return [row["value"] for row in connection.execute(VALUES, (item_id,)).fetchall()]


def lock_item(connection: Connection, project_id: str, item_id: str) -> Row | None:
    return connection.execute(LOCK_ITEM, (item_id, project_id)).fetchone()


def turns(connection: Connection, item_id: str, labeller_id: str) -> dict[str, Row]:
    """The labeller's own turns at an item, by role."""
    rows = connection.execute(TURN, (item_id, labeller_id)).fetchall()
    return {row["role"]: row for row in rows}


def put_turn(connection: Connection, tenant: UUID, values: dict[str, Any]) -> None:
    """Write down how a turn ended, and append it to the history."""
    value = Jsonb(values["value"]) if values["value"] is not None else None
    given = {**values, "tenant": tenant, "value": value}
    connection.execute(PUT_TURN, given)
    connection.execute(ADD_EVENT, given)


def set_item(connection: Connection, item: dict[str, Any]) -> None:
    """Write back an item that `lock_item` gave."""
    final = Jsonb(item["final"]) if item["final"] is not None else None
    connection.execute(SET_ITEM, {**item, "final": final})


def own_progress(connection: Connection, project_id: str, labeller_id: str) -> dict[str, int]:
    """What a labeller has done, and what is left for exactly this one."""
    mine = connection.execute(MINE, (labeller_id,)).fetchone()
    left = connection.execute(LEFT, {"project": project_id, "me": labeller_id}).fetchone()
    assert mine is not None
    assert left is not None
    return {**mine, **left}


def own_labels(connection: Connection, labeller_id: str, after: str | None, limit: int) -> list[Row]:
    """The labeller's own labels and skips, newest first."""
    return connection.execute(OWN, {"me": labeller_id, "after": after, "limit": limit}).fetchall()


def owned(connection: Connection, labeller_id: str, item_id: str) -> bool:
    return connection.execute(OWNED, (labeller_id, item_id)).fetchone() is not None
