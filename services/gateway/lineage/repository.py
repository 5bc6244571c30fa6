"""SQL of lineage: the edges between files, versions, models, answers and jobs, all read from rows that exist anyway;
those of evals, searches and the registry stand in `releases_repository`.

A kind of node is a line in ABOUT; an edge is an entry of EDGES. A new kind needs nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from services.gateway.lineage import releases_repository
from services.gateway.lineage.edge import BY_PREFIX, Edge
from services.gateway.lineage.graph import Direction, Link, Node, kind_of
from services.gateway.lineage.releases_repository import ANSWER, ANSWERED
from shared.db import Connection, Row

_VERSION = "data_governance.version t"
_MODEL = "training.model t"
_USAGE = "gateway.usage t"
_JOB = "core.job t"
_PARTS = (
    "core.job t CROSS JOIN LATERAL jsonb_array_elements(CASE WHEN jsonb_typeof(t.payload -> 'parts') = 'array' "
    "THEN t.payload -> 'parts' ELSE '[]' END) p"
)
_PROJECT = "data_governance.label_project t"
_SYNCED = "gateway.file t JOIN core.job j ON j.id = t.job_id AND j.kind = 'data.sync'"
_LABELLED = "gateway.file t JOIN core.job j ON j.id = t.job_id AND j.kind = 'data.export_labels'"
_MADE = "training.model t JOIN core.job j ON j.id = t.job_id AND j.tenant_id = t.tenant_id"
# A build of several files names the others in its payload.
_OTHERS = "CROSS JOIN LATERAL jsonb_array_elements(j.payload -> 'others') o"
_BUILT = f"data_governance.version t JOIN core.job j ON j.id = t.job_id {_OTHERS}"
_BUILT_FROM = (
    "j.kind = 'data.build_version' AND j.payload -> 'others' <> '[]' AND o ->> 'file_id' = w.id "
    "AND j.payload -> 'others' @> jsonb_build_array(jsonb_build_object('file_id', w.id))"
)
EDGES = (
    Edge("governed", "file", "version", _VERSION, "t.file_id", "t.id", "t.job_id"),
    Edge("governed", "file", "version", _BUILT, "o ->> 'file_id'", "t.id", "t.job_id", by_parent=_BUILT_FROM),
    Edge("trained_on", BY_PREFIX, "model", _MODEL, "t.dataset_version", "t.id", "t.job_id"),
    Edge("validated_on", BY_PREFIX, "model", _MADE, "j.payload #>> '{validation,id}'", "t.id", "t.job_id"),
    Edge("stands_on", "model", "model", _MODEL, "t.base_id", "t.id", "t.job_id"),
    # An adapter that was trained further has its base and what it began as.
    Edge("stands_on", "model", "model", _MODEL, "t.info ->> 'started_from'", "t.id", "t.job_id"),
    Edge("answered", "model", "answer", _USAGE, "t.model", job="t.job_id", **ANSWERED),
    Edge("synced", "source", "file", _SYNCED, "j.payload ->> 'source_id'", "t.id", "t.job_id"),
    Edge("labelled_in", BY_PREFIX, "project", _PROJECT, "t.source ->> 'id'", "t.id"),
    Edge("labelled", "project", "file", _LABELLED, "j.payload ->> 'project_id'", "t.id", "t.job_id"),
    Edge("stored", "answer", "file", "gateway.stored_chat_file t", "t.answer_id", "t.file_id", "t.job_id"),
    Edge("made", "job", "file", "gateway.file t", "t.job_id", "t.id"),
    # What a job took and made, for whoever asks of the job itself.
    Edge("read", BY_PREFIX, "job", _JOB, "t.payload ->> 'file_id'", "t.id"),
    Edge(
        "read",
        "file",
        "job",
        f"core.job t {_OTHERS.replace('j.', 't.')}",
        "o ->> 'file_id'",
        "t.id",
    ),
    Edge("read", BY_PREFIX, "job", _JOB, "t.payload ->> 'input_file_id'", "t.id"),
    Edge("read", BY_PREFIX, "job", _JOB, "t.payload #>> '{training,id}'", "t.id"),
    Edge("read", BY_PREFIX, "job", _JOB, "t.payload #>> '{validation,id}'", "t.id"),
    Edge("read", BY_PREFIX, "job", _JOB, "t.payload #>> '{data,id}'", "t.id"),
    # Several tasks on one trunk have rows of their own.
    Edge("read", BY_PREFIX, "job", _PARTS, "p #>> '{training,id}'", "t.id"),
    Edge("read", BY_PREFIX, "job", _PARTS, "p #>> '{validation,id}'", "t.id"),
    Edge("read", BY_PREFIX, "job", _JOB, "t.payload ->> 'version_id'", "t.id"),
    Edge("read", "source", "job", _JOB, "t.payload ->> 'source_id'", "t.id"),
    Edge("read", "project", "job", _JOB, "t.payload ->> 'project_id'", "t.id"),
    Edge("used", "model", "job", _JOB, "t.payload #>> '{base,model}'", "t.id"),
    Edge("used", "model", "job", _JOB, "t.payload #>> '{model,model}'", "t.id"),
    Edge("used", "model", "job", _JOB, "t.payload ->> 'teacher'", "t.id"),
    Edge("used", "model", "job", _JOB, "t.payload #>> '{call,model,name}'", "t.id"),
    Edge("made", "job", "version", _VERSION, "t.job_id", "t.id"),
    Edge("made", "job", "model", _MODEL, "t.job_id", "t.id"),
    Edge("made", "job", "answer", _USAGE, "t.job_id", **ANSWERED),
    *releases_repository.EDGES,
)
# Upstream a version, model or answer names its job on the edge to what it is made from; only a file has nothing
# else. Downstream of data its readers are not asked for: their payloads have no index, and what they made is shown.
_UPSTREAM_OF_JOBS = frozenset({"file"})
_READERS = frozenset({"job", "search"})

ABOUT: Mapping[str, str] = {
    "file": "SELECT id, filename, purpose, bytes, job_id, created_at, deleted_at FROM gateway.file "
    "WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)",
    "version": "SELECT DISTINCT ON (v.id) v.id, d.name AS dataset, v.rows, v.train_rows, v.validation_rows, "
    "v.gate_passed, v.artifact, v.job_id, v.created_at, v.deleted_at, ARRAY(SELECT n.erasure_id FROM "
    "data_governance.needs_rebuild n WHERE n.tenant_id = v.tenant_id AND n.kind = 'version' AND n.id = v.id) "
    "AS needs_rebuild FROM data_governance.version v JOIN data_governance.dataset d ON d.id = v.dataset_id "
    "WHERE v.tenant_id = %(tenant)s AND v.id = ANY(%(ids)s) ORDER BY v.id, v.deleted_at IS NOT NULL, v.created_at DESC",
    "model": "SELECT m.id, m.kind AS model_kind, m.job_id, m.created_at, m.deleted_at, ARRAY(SELECT n.erasure_id "
    "FROM data_governance.needs_rebuild n WHERE n.tenant_id = m.tenant_id AND n.kind = 'model' AND n.id = m.id) "
    "AS needs_rebuild FROM training.model m WHERE m.tenant_id = %(tenant)s AND m.id = ANY(%(ids)s)",
    "answer": f"SELECT {ANSWER} AS id, t.endpoint, t.status, t.created_at, t.job_id, t.trace_id, "
    "t.metadata ->> 'task' AS task, (t.metadata ->> 'task_version')::int AS task_version, "
    "t.metadata ->> 'registry' AS registry, (t.metadata ->> 'registry_version')::int AS registry_version "
    "FROM gateway.usage t "
    "WHERE t.tenant_id = %(tenant)s AND (t.answer_id = ANY(%(ids)s) OR t.request_id = ANY(%(ids)s))",
    "source": "SELECT id, name, kind AS source_kind, created_at, deleted_at FROM data_governance.source "
    "WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)",
    "project": "SELECT id, name, created_at, deleted_at FROM data_governance.label_project "
    "WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)",
    "job": "SELECT id, kind AS job_kind, state, created_at, started_at, finished_at FROM core.job "
    "WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)",
    **releases_repository.ABOUT,
}

VERSIONS = """
SELECT v.id, v.artifact, ARRAY[v.file_id] || ARRAY(
    SELECT o ->> 'file_id' FROM core.job j CROSS JOIN LATERAL jsonb_array_elements(j.payload -> 'others') o
    WHERE j.id = v.job_id) AS files
FROM (SELECT DISTINCT ON (id) id, artifact, file_id, job_id, created_at FROM data_governance.version
      WHERE tenant_id = %(tenant)s AND deleted_at IS NULL ORDER BY id, created_at DESC) v
ORDER BY v.created_at DESC, v.id LIMIT %(limit)s"""

ANSWERS = f"""
SELECT {ANSWER} AS id, t.model, t.endpoint, t.status, t.created_at, t.job_id, t.trace_id,
    t.metadata ->> 'task' AS task FROM gateway.usage t
WHERE t.tenant_id = %(tenant)s AND t.model = ANY(%(models)s)
  AND (%(after)s::bigint IS NULL OR t.id < %(after)s) ORDER BY t.id DESC LIMIT %(limit)s"""

ANSWER_PLACE = """
SELECT id FROM gateway.usage WHERE tenant_id = %(tenant)s AND (answer_id = %(id)s OR request_id = %(id)s)"""


def neighbours(
    connection: Connection, tenant: UUID, kind: str, ids: Sequence[str], direction: Direction, limit: int
) -> tuple[list[Link], list[str]]:
    """Links of these nodes, at most `limit` of each edge and node; and the nodes that have more."""
    links: list[Link] = []
    cut: list[str] = []
    for edge in EDGES:
        if not _asked(edge, kind, direction):
            continue
        values = {"tenant": tenant, "ids": list(ids), "limit": limit + 1}
        rows = connection.execute(edge.sql(direction), values).fetchall()
        seen: Counter[str] = Counter()
        for row in rows:
            seen[row["asked"]] += 1
            if seen[row["asked"]] <= limit:
                links.append(_link(edge, row))
        cut += [asked for asked, found in seen.items() if found > limit]
    return links, cut


def _asked(edge: Edge, kind: str, direction: Direction) -> bool:
    if direction == "downstream":
        if edge.child in _READERS:
            return False
        return edge.parent == kind or (edge.parent == BY_PREFIX and kind in ("version", "file"))
    if edge.parent == "job" and edge.child not in _UPSTREAM_OF_JOBS:
        return False
    return edge.child == kind


def _link(edge: Edge, row: Row) -> Link:
    parent = kind_of(row["parent"]) or "file" if edge.parent == BY_PREFIX else edge.parent
    return Link(Node(parent, row["parent"]), Node(edge.child, row["child"]), edge.type, row["job"])


def about(connection: Connection, tenant: UUID, kind: str, ids: Sequence[str]) -> dict[str, Row]:
    """What is known of the nodes of a kind, by id; nothing for a node that is another tenant's or was never there."""
    if kind not in ABOUT:
        return {}
    rows = connection.execute(ABOUT[kind], {"tenant": tenant, "ids": list(ids)}).fetchall()
    return {row["id"]: row for row in rows}


def versions(connection: Connection, tenant: UUID, limit: int) -> list[Row]:
    """`id`, `artifact` and `files` (in the order of its inputs) of the tenant's versions, newest first, each once."""
    return connection.execute(VERSIONS, {"tenant": tenant, "limit": limit}).fetchall()


def answer_place(connection: Connection, tenant: UUID, answer: str) -> int | None:
    """The place of an answer in the ledger."""
    row = connection.execute(ANSWER_PLACE, {"tenant": tenant, "id": answer}).fetchone()
    return int(row["id"]) if row is not None else None


def answers(
    connection: Connection, tenant: UUID, models: Sequence[str], after: int | None, limit: int
) -> list[dict[str, Any]]:
    """What these models answered, newest first."""
    values = {"tenant": tenant, "models": list(models), "after": after, "limit": limit}
    return connection.execute(ANSWERS, values).fetchall()
