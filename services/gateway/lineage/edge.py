"""An edge of lineage: how the rows of one table tie parents to children, and the SQL that asks them."""

from __future__ import annotations

from dataclasses import dataclass

from services.gateway.lineage.graph import Direction

# The kind of an end whose id tells it: data may be a version or a file.
BY_PREFIX = "data"


@dataclass(frozen=True)
class Edge:
    """How rows of one table (`t`) tie parents to children. `w.id` is the node that is asked of."""

    type: str
    parent: str
    child: str
    table: str
    parent_id: str
    child_id: str
    job: str = "NULL::text"
    order: str = "t.created_at DESC"
    # Where an end's id is no single column.
    by_child: str = ""
    by_parent: str = ""

    def sql(self, direction: Direction) -> str:
        by_child = self.by_child or f"{self.child_id} = w.id"
        by_parent = self.by_parent or f"{self.parent_id} = w.id"
        found = by_parent if direction == "downstream" else by_child
        other = self.child_id if direction == "downstream" else self.parent_id
        return f"""
SELECT w.id AS asked, found.* FROM unnest(%(ids)s::text[]) AS w (id) CROSS JOIN LATERAL (
    SELECT {self.parent_id} AS parent, {self.child_id} AS child, {self.job} AS job FROM {self.table}
    WHERE t.tenant_id = %(tenant)s AND {found} AND {other} IS NOT NULL ORDER BY {self.order} LIMIT %(limit)s) found"""
