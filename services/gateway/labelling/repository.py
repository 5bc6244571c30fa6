"""SQL of labelling projects, their labellers and items, as their owner sees them. What labellers do is beside it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from shared.db import Connection, Row

INSERT = """
INSERT INTO data_governance.label_project (id, tenant_id, name, spec, source) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO NOTHING RETURNING *"""

GET = """
SELECT * FROM data_governance.label_project
WHERE tenant_id = %(tenant)s AND (id = %(name)s OR name = %(name)s) AND deleted_at IS NULL
ORDER BY id = %(name)s DESC LIMIT 1"""

LIST = """
SELECT * FROM data_governance.label_project WHERE tenant_id = %(tenant)s AND deleted_at IS NULL
  AND (%(after)s::text IS NULL
       OR (created_at, id) < (SELECT created_at, id FROM data_governance.label_project WHERE id = %(after)s))
ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""

EXISTED = "SELECT 1 FROM data_governance.label_project WHERE id = %s"

SET_SPEC = "UPDATE data_governance.label_project SET spec = %s WHERE id = %s"

DELETE = "UPDATE data_governance.label_project SET deleted_at = now() WHERE id = %s"

LABELLER = "l.id, l.name, l.prefix, l.adjudicates, l.created_at, l.revoked_at"

INSERT_LABELLER = f"""
INSERT INTO data_governance.label_labeller AS l (id, tenant_id, project_id, name, prefix, digest, adjudicates)
VALUES (%(id)s, %(tenant)s, %(project)s, %(name)s, %(prefix)s, %(digest)s, %(adjudicates)s)
ON CONFLICT (project_id, name) DO NOTHING RETURNING {LABELLER}"""

LABELLERS = f"""
SELECT {LABELLER}, COALESCE(t.labelled, 0) AS labelled, COALESCE(t.skipped, 0) AS skipped,
    COALESCE(t.adjudicated, 0) AS adjudicated
FROM data_governance.label_labeller l LEFT JOIN (
    SELECT labeller_id, count(*) FILTER (WHERE role = 'label' AND state = 'labelled') AS labelled,
        count(*) FILTER (WHERE role = 'label' AND state = 'skipped') AS skipped,
        count(*) FILTER (WHERE role = 'adjudicate' AND state = 'labelled') AS adjudicated
    FROM data_governance.label_turn WHERE project_id = %(project)s GROUP BY labeller_id) t ON t.labeller_id = l.id
WHERE l.project_id = %(project)s AND (%(id)s::text IS NULL OR l.id = %(id)s)
  AND (%(after)s::text IS NULL OR (l.created_at, l.id) < (
       SELECT created_at, id FROM data_governance.label_labeller a WHERE a.id = %(after)s
       AND a.project_id = %(project)s))
ORDER BY l.created_at DESC, l.id DESC LIMIT %(limit)s"""

REVOKE = """
UPDATE data_governance.label_labeller SET revoked_at = COALESCE(revoked_at, now())
WHERE id = %s AND project_id = %s RETURNING id"""

ITEM = """id, position, row_id, data, extra, gold, weak, state, needed, priority, agreement, final, final_by,
    created_at"""

ITEMS = f"""
SELECT {ITEM} FROM data_governance.label_item WHERE project_id = %(project)s
  AND (%(state)s::text IS NULL OR state = %(state)s)
  AND (%(after)s::text IS NULL OR position > (
       SELECT position FROM data_governance.label_item WHERE id = %(after)s AND project_id = %(project)s))
ORDER BY position LIMIT %(limit)s"""

ONE_ITEM = f"SELECT {ITEM} FROM data_governance.label_item WHERE id = %s AND project_id = %s"

LABELS_OF = """
SELECT t.item_id, t.labeller_id, l.name AS labeller, t.role, t.state, t.value, t.updated_at
FROM data_governance.label_turn t JOIN data_governance.label_labeller l ON l.id = t.labeller_id
WHERE t.item_id = ANY(%s) AND t.state <> 'leased' ORDER BY t.updated_at, t.labeller_id"""

HISTORY = """
SELECT e.id, e.kind, e.labeller_id, l.name AS labeller, e.value, e.seconds, e.created_at
FROM data_governance.label_event e JOIN data_governance.label_labeller l ON l.id = e.labeller_id
WHERE e.item_id = %(item)s AND (%(after)s::bigint IS NULL OR e.id > %(after)s) ORDER BY e.id LIMIT %(limit)s"""

SET_GOLD = """
UPDATE data_governance.label_item SET gold = %s, state = 'gold', final = NULL, final_by = NULL, agreement = NULL,
    adjudicating = false WHERE id = %s AND project_id = %s"""

STATES = "SELECT state, count(*) AS n FROM data_governance.label_item WHERE project_id = %s GROUP BY state"

LABELS = """
SELECT count(*) AS n FROM data_governance.label_turn
WHERE project_id = %s AND role = 'label' AND state = 'labelled'"""

SUSPECTS = """
SELECT s.item_id AS id, s.given, s.guessed, s.quality, s.job_id, i.row_id, i.data
FROM data_governance.label_suspect s JOIN data_governance.label_item i ON i.id = s.item_id
WHERE s.project_id = %(project)s AND (%(after)s::text IS NULL OR (s.quality, s.item_id) > (
    SELECT quality, item_id FROM data_governance.label_suspect a
    WHERE a.project_id = %(project)s AND a.item_id = %(after)s))
ORDER BY s.quality, s.item_id LIMIT %(limit)s"""

SUSPECT = "SELECT 1 FROM data_governance.label_suspect WHERE project_id = %s AND item_id = %s"


def insert_project(
    connection: Connection,
    project_id: str,
    tenant: UUID,
    name: str,
    spec: dict[str, Any],
    source: dict[str, Any],
) -> Row | None:
    """The new project, or None where the name is taken."""
    values = (project_id, tenant, name, Jsonb(spec), Jsonb(source))
    return connection.execute(INSERT, values).fetchone()


def get_project(connection: Connection, tenant: UUID, name: str) -> Row | None:
    """By id or name."""
    return connection.execute(GET, {"tenant": tenant, "name": name}).fetchone()


def project_existed(connection: Connection, project_id: str) -> bool:
    """True for a deleted one too: a page may go on after it."""
    return connection.execute(EXISTED, (project_id,)).fetchone() is not None


def list_projects(connection: Connection, tenant: UUID, after: str | None, limit: int) -> list[Row]:
    """Newest first."""
    return connection.execute(LIST, {"tenant": tenant, "after": after, "limit": limit}).fetchall()


def set_spec(connection: Connection, project_id: str, spec: dict[str, Any]) -> None:
    connection.execute(SET_SPEC, (Jsonb(spec), project_id))


def delete_project(connection: Connection, project_id: str) -> None:
    """As if it had never been; its tokens are good for nothing then."""
    connection.execute(DELETE, (project_id,))


def insert_labeller(connection: Connection, values: dict[str, Any]) -> Row | None:
    """The new labeller, or None where the project has one of this name."""
    return connection.execute(INSERT_LABELLER, values).fetchone()


def labellers(
    connection: Connection, project_id: str, *, labeller_id: str | None = None, after: str | None, limit: int
) -> list[Row]:
    """Newest first, revoked ones too, with how much each has done."""
    values = {"project": project_id, "id": labeller_id, "after": after, "limit": limit}
    return connection.execute(LABELLERS, values).fetchall()


def revoke(connection: Connection, project_id: str, labeller_id: str) -> bool:
    """True where the project has such a labeller; again is harmless."""
    return connection.execute(REVOKE, (labeller_id, project_id)).fetchone() is not None


def items(
    connection: Connection, project_id: str, *, state: str | None, after: str | None, limit: int
) -> list[Row]:
    """In the order of the source."""
    values = {"project": project_id, "state": state, "after": after, "limit": limit}
    return connection.execute(ITEMS, values).fetchall()


def get_item(connection: Connection, project_id: str, item_id: str) -> Row | None:
    return connection.execute(ONE_ITEM, (item_id, project_id)).fetchone()


def labels_of(connection: Connection, item_ids: list[str]) -> list[Row]:
    """What everybody said of these items last."""
    return connection.execute(LABELS_OF, (item_ids,)).fetchall()


def history(connection: Connection, item_id: str, after: int | None, limit: int) -> list[Row]:
    """Everything that was ever said of an item, the oldest first."""
    return connection.execute(HISTORY, {"item": item_id, "after": after, "limit": limit}).fetchall()


def set_gold(connection: Connection, project_id: str, item_id: str, value: dict[str, Any]) -> None:
    connection.execute(SET_GOLD, (Jsonb(value), item_id, project_id))


def progress(connection: Connection, project_id: str) -> dict[str, int]:
    """Items by state, and labels given."""
    counts = {row["state"]: row["n"] for row in connection.execute(STATES, (project_id,)).fetchall()}
    given = connection.execute(LABELS, (project_id,)).fetchone()
    assert given is not None
    named = {state: counts.get(state, 0) for state in ("open", "adjudication", "done", "gold")}
    return {"items": sum(counts.values()), **named, "labels": given["n"]}


def suspects(connection: Connection, project_id: str, after: str | None, limit: int) -> list[Row]:
    """The least likely labels first."""
    return connection.execute(SUSPECTS, {"project": project_id, "after": after, "limit": limit}).fetchall()


def suspect_exists(connection: Connection, project_id: str, item_id: str) -> bool:
    return connection.execute(SUSPECT, (project_id, item_id)).fetchone() is not None
