"""SQL of labelling as a worker sees it: items in, labels out, and what was found about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row
from shared.errors import NotFound

PROJECT = "SELECT * FROM data_governance.label_project WHERE id = %s AND deleted_at IS NULL"

# One import of a project at a time numbers its items.
LOCK = "SELECT 1 FROM data_governance.label_project WHERE id = %s FOR NO KEY UPDATE"

INSERT = """
INSERT INTO data_governance.label_item (id, tenant_id, project_id, position, row_id, data, extra, gold, state, needed)
SELECT n.id, %(tenant)s, %(project)s,
    (SELECT COALESCE(max(position), -1) FROM data_governance.label_item WHERE project_id = %(project)s)
        + row_number() OVER (ORDER BY n.number),
    n.row_id, n.data, n.extra, n.gold, CASE WHEN n.gold IS NULL THEN 'open' ELSE 'gold' END, %(needed)s
FROM jsonb_to_recordset(%(rows)s) AS n(number int, id text, row_id text, data jsonb, extra jsonb, gold jsonb)
WHERE NOT EXISTS (SELECT 1 FROM data_governance.label_item i WHERE i.id = n.id)
RETURNING id"""

LABELLER = """
INSERT INTO data_governance.label_labeller AS l (id, tenant_id, project_id, name) VALUES (%s, %s, %s, %s)
ON CONFLICT (project_id, name) DO NOTHING"""

LABELLER_ID = "SELECT id FROM data_governance.label_labeller WHERE project_id = %s AND name = %s"

TURN = """
INSERT INTO data_governance.label_turn (item_id, labeller_id, role, tenant_id, project_id, state, value)
VALUES (%(item)s, %(labeller)s, 'label', %(tenant)s, %(project)s, 'labelled', %(value)s)
ON CONFLICT DO NOTHING RETURNING item_id"""

EVENT = """
INSERT INTO data_governance.label_event (tenant_id, project_id, item_id, labeller_id, kind, value)
VALUES (%(tenant)s, %(project)s, %(item)s, %(labeller)s, 'import', %(value)s)"""

SETTLE = """
UPDATE data_governance.label_item SET state = %(state)s, taken = %(taken)s, agreement = %(agreement)s,
    final = %(final)s, final_by = %(final_by)s WHERE id = %(id)s"""

ITEMS = """
SELECT id, row_id, data, extra, gold, final, final_by, weak, agreement, state, position
FROM data_governance.label_item WHERE project_id = %(project)s AND position > %(after)s
ORDER BY position LIMIT %(limit)s"""

LABELS = """
SELECT t.item_id, l.name AS labeller, t.value FROM data_governance.label_turn t
JOIN data_governance.label_labeller l ON l.id = t.labeller_id
WHERE t.project_id = %s AND t.role = 'label' AND t.state = 'labelled'
ORDER BY t.item_id, t.updated_at, l.id"""

GOLD = "SELECT id, gold FROM data_governance.label_item WHERE project_id = %s AND state = 'gold'"

FORGET_SUSPECTS = "DELETE FROM data_governance.label_suspect WHERE project_id = %s"

SUSPECTS = """
INSERT INTO data_governance.label_suspect (project_id, item_id, tenant_id, job_id, given, guessed, quality)
SELECT %(project)s, s.item_id, %(tenant)s, %(job)s, s.given, s.guessed, s.quality
FROM jsonb_to_recordset(%(rows)s) AS s(item_id text, given text, guessed text, quality float8)"""

PRIORITIES = """
UPDATE data_governance.label_item i SET priority = n.priority
FROM jsonb_to_recordset(%(rows)s) AS n(id text, priority float8)
WHERE i.id = n.id AND i.project_id = %(project)s"""

WEAK = """
UPDATE data_governance.label_item i SET weak = n.weak
FROM jsonb_to_recordset(%(rows)s) AS n(id text, weak jsonb)
WHERE i.id = n.id AND i.project_id = %(project)s"""

FILE = """
INSERT INTO gateway.file (id, tenant_id, filename, purpose, bytes, artifact, job_id)
VALUES (%s, %s, %s, 'user_data', %s, %s, %s) ON CONFLICT (id) DO NOTHING"""


def project(connection: Connection, project_id: str) -> Row:
    """Raises NotFound for one that was removed meanwhile."""
    row = connection.execute(PROJECT, (project_id,)).fetchone()
    if row is None:
        raise NotFound(f"the labelling project {project_id} is gone", param="project")
    return row


def add_items(
    connection: Connection, tenant: UUID, project_id: str, rows: Sequence[dict[str, Any]], needed: int
) -> set[str]:
    """Append items that are not there yet, in their order; returns the ids of those that were new."""
    connection.execute(LOCK, (project_id,))
    numbered = [{**row, "number": number} for number, row in enumerate(rows)]
    values = {"tenant": tenant, "project": project_id, "rows": Jsonb(numbered), "needed": needed}
    return {row["id"] for row in connection.execute(INSERT, values).fetchall()}


def ensure_labeller(connection: Connection, tenant: UUID, project_id: str, new_id: str, name: str) -> str:
    """The labeller of this name; made without a token where there is none."""
    connection.execute(LABELLER, (new_id, tenant, project_id, name))
    row = connection.execute(LABELLER_ID, (project_id, name)).fetchone()
    assert row is not None
    return str(row["id"])


def add_label(connection: Connection, values: dict[str, Any]) -> None:
    """A label from elsewhere, with its place in the history; one that is there stays."""
    given = {**values, "value": Jsonb(values["value"])}
    if connection.execute(TURN, given).fetchone() is not None:
        connection.execute(EVENT, given)


def settle(connection: Connection, values: dict[str, Any]) -> None:
    final = Jsonb(values["final"]) if values["final"] is not None else None
    connection.execute(SETTLE, {**values, "final": final})


def items(connection: Connection, project_id: str, after: int, limit: int) -> list[Row]:
    """In the order of the source, from behind position `after` (-1 for the first)."""
    return connection.execute(ITEMS, {"project": project_id, "after": after, "limit": limit}).fetchall()


def labels(connection: Connection, project_id: str) -> list[Row]:
    """Every blind label that stands."""
    return connection.execute(LABELS, (project_id,)).fetchall()


def gold(connection: Connection, project_id: str) -> dict[str, Any]:
    """What is right of the items that are known, by their ids."""
    return {row["id"]: row["gold"] for row in connection.execute(GOLD, (project_id,)).fetchall()}


def put_suspects(
    connection: Connection, tenant: UUID, project_id: str, job_id: str, rows: Sequence[dict[str, Any]]
) -> None:
    """What this look found, in the place of what the last one did."""
    connection.execute(FORGET_SUSPECTS, (project_id,))
    values = {"tenant": tenant, "project": project_id, "job": job_id, "rows": Jsonb(list(rows))}
    connection.execute(SUSPECTS, values)


def put_priorities(connection: Connection, project_id: str, rows: Sequence[dict[str, Any]]) -> None:
    connection.execute(PRIORITIES, {"project": project_id, "rows": Jsonb(list(rows))})


def put_weak(connection: Connection, project_id: str, rows: Sequence[dict[str, Any]]) -> None:
    connection.execute(WEAK, {"project": project_id, "rows": Jsonb(list(rows))})


def add_file(
    connection: Connection, file_id: str, tenant: UUID, name: str, size: int, artifact: str, job_id: str
) -> None:
    connection.execute(FILE, (file_id, tenant, name, size, artifact, job_id))
