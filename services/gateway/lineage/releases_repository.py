"""SQL of lineage from evals and searches to what is in production: edges and what is told of their nodes.

A registered model is `registry:NAME`, a version of it `registry:NAME@2`, and a trial `search-...@3`. A name may have
been another's before: of one that was deleted the id of its row stands in the place of the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from services.gateway.lineage.edge import BY_PREFIX, Edge
from shared.db import Connection, Row

ANSWER = "COALESCE(t.answer_id, t.request_id)"
# What both edges to an answer share.
ANSWERED = {
    "child_id": ANSWER,
    "by_child": "(t.answer_id = w.id OR t.request_id = w.id)",
    "order": "t.id DESC",
}

_NAME = "CASE WHEN r.deleted_at IS NULL THEN 'registry:' || r.name ELSE r.id END"
_OF_NAME = (
    "(r.id = split_part(w.id, '@', 1) "
    "OR r.deleted_at IS NULL AND 'registry:' || r.name = split_part(w.id, '@', 1))"
)
_NUMBER = "split_part(w.id, '@', 2)"
_REGISTRY = "JOIN gateway.registry r ON r.id = t.registry_id"
_VERSIONS = f"gateway.registry_version t {_REGISTRY}"
_VERSION = f"{_NAME} || '@' || t.version"
_OF_VERSION = f"{_OF_NAME} AND t.version::text = {_NUMBER}"
# Whoever had the name when the answer was given.
_LEDGER = (
    "gateway.usage t JOIN gateway.registry r ON r.tenant_id = t.tenant_id AND t.metadata ? 'registry' "
    "AND t.metadata ->> 'registry' = r.name AND t.created_at >= r.created_at "
    "AND (r.deleted_at IS NULL OR t.created_at < r.deleted_at)"
)
_ANSWERED_BY = f"{_NAME} || '@' || (t.metadata ->> 'registry_version')"
_RUNS = (
    "training.eval_run t JOIN core.job j ON j.id = t.id AND j.tenant_id = t.tenant_id AND j.kind = 'eval.run'"
)
_ITEMS = "j.payload #>> '{items,id}'"
_ASKED = "j.payload #>> '{data_source,model}'"
_JUDGES = f"{_RUNS} CROSS JOIN LATERAL jsonb_array_elements(j.payload -> 'criteria') AS c"
_DECISIONS = f"gateway.registry_decision t {_REGISTRY}"
_WEIGHED = "gateway.registry_decision t CROSS JOIN LATERAL jsonb_each(t.record -> 'runs') AS role"
_WEIGHED_RUN = " OR ".join(
    f"t.record -> 'runs' @> jsonb_build_object('{role}', jsonb_build_object('id', w.id))"
    for role in ("candidate", "champion", "baseline")
)
_MOVES = "gateway.registry_event t"
_MOVE = "'promotion-' || t.id"
_OF_MOVE = "t.id = CASE WHEN w.id ~ '^promotion-[0-9]{1,18}$' THEN substr(w.id, 11)::bigint END"
_TRIALS = "training.search_trial t"
_TRIAL = "t.search_id || '@' || t.number"
_OF_TRIAL = f"t.search_id = split_part(w.id, '@', 1) AND t.number::text = {_NUMBER}"
_MADE = f"{_TRIALS} JOIN training.model m ON m.tenant_id = t.tenant_id AND m.job_id = t.job_id"
_SEARCHES = "core.job t"
_OF_SEARCH = "t.id = w.id AND t.kind = 'training.search'"


def _search(type_: str, parent: str, place: str) -> Edge:
    return Edge(
        type_, parent, "search", _SEARCHES, f"t.payload #>> '{place}'", "t.id", "t.id", by_child=_OF_SEARCH
    )


EDGES = (
    Edge("registered_as", "model", "model_version", _VERSIONS, "t.model_id", _VERSION, by_child=_OF_VERSION),
    Edge(
        "version_of",
        "model_version",
        "registered_model",
        _VERSIONS,
        _VERSION,
        _NAME,
        by_child=_OF_NAME,
        by_parent=_OF_VERSION,
    ),
    Edge(
        "answered",
        "model_version",
        "answer",
        _LEDGER,
        _ANSWERED_BY,
        job="t.job_id",
        by_parent=f"{_OF_NAME} AND t.metadata ->> 'registry_version' = {_NUMBER}",
        **ANSWERED,
    ),
    Edge("measured", "eval", "eval_run", "training.eval_run t", "t.eval_id", "t.id", "t.id"),
    Edge(
        "items_of",
        BY_PREFIX,
        "eval_run",
        _RUNS,
        f"NULLIF({_ITEMS}, 'given')",
        "t.id",
        "t.id",
        by_parent=f"{_ITEMS} = w.id",
    ),
    # What a task asks is told by the answers of its batch.
    Edge(
        "evaluated",
        "model",
        "eval_run",
        _RUNS,
        f"CASE WHEN NOT starts_with({_ASKED}, 'task:') THEN {_ASKED} END",
        "t.id",
        "t.id",
        by_parent=f"{_ASKED} = w.id",
    ),
    Edge(
        "judged",
        "model",
        "eval_run",
        _JUDGES,
        "c ->> 'model'",
        "t.id",
        "t.id",
        by_parent="c ->> 'model' = w.id "
        "AND j.payload -> 'criteria' @> jsonb_build_array(jsonb_build_object('model', w.id))",
    ),
    Edge(
        "weighed_in",
        "eval_run",
        "decision",
        _WEIGHED,
        "role.value ->> 'id'",
        "t.id",
        by_parent=f"({_WEIGHED_RUN}) AND role.value ->> 'id' = w.id",
    ),
    Edge("decided_on", "model_version", "decision", _DECISIONS, _VERSION, "t.id", by_parent=_OF_VERSION),
    Edge(
        "compared_in",
        "model_version",
        "decision",
        _DECISIONS,
        f"{_NAME} || '@' || t.against",
        "t.id",
        by_parent=f"{_OF_NAME} AND t.against::text = {_NUMBER}",
    ),
    Edge("let_in", "decision", "promotion", _MOVES, "t.decision_id", _MOVE, by_child=_OF_MOVE),
    Edge(
        "moved",
        "promotion",
        "registered_model",
        f"{_MOVES} {_REGISTRY}",
        _MOVE,
        _NAME,
        by_child=f"{_OF_NAME} AND t.decision_id IS NOT NULL",
        by_parent=_OF_MOVE,
    ),
    # As of jobs: what data a search read is told upstream, and downstream what it made of that.
    _search("read", BY_PREFIX, "{job,training,id}"),
    _search("read", BY_PREFIX, "{job,validation,id}"),
    _search("used", "model", "{job,base,model}"),
    Edge("tried", "search", "trial", _TRIALS, "t.search_id", _TRIAL, by_child=_OF_TRIAL),
    # Of the best one alone there are models.
    Edge("made", "trial", "model", _MADE, _TRIAL, "m.id", "t.job_id", by_parent=_OF_TRIAL),
)

ABOUT: Mapping[str, str] = {
    "registered_model": f"SELECT {_NAME} AS id, r.name, e.production AS production_version, r.created_at, r.deleted_at "
    "FROM gateway.registry r LEFT JOIN gateway.registry_event e ON e.id = r.head_id "
    f"WHERE r.tenant_id = %(tenant)s AND ({_NAME} = ANY(%(ids)s) OR r.id = ANY(%(ids)s))",
    "model_version": f"SELECT {_VERSION} AS id, r.name, t.version, t.stage, t.created_at, r.deleted_at "
    f"FROM {_VERSIONS} WHERE t.tenant_id = %(tenant)s "
    f"AND ({_VERSION} = ANY(%(ids)s) OR r.id || '@' || t.version = ANY(%(ids)s))",
    "eval": "SELECT id, name, created_at, deleted_at FROM training.eval "
    "WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)",
    "eval_run": "SELECT t.id, t.name, NULLIF(t.model, '') AS model, j.state, t.created_at, t.deleted_at "
    "FROM training.eval_run t JOIN core.job j ON j.id = t.id WHERE t.tenant_id = %(tenant)s AND t.id = ANY(%(ids)s)",
    "decision": "SELECT id, verdict, version, against, created_at, expires_at FROM gateway.registry_decision "
    "WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)",
    "promotion": "SELECT 'promotion-' || id AS id, action, version, production AS production_version, reason, "
    "created_at FROM gateway.registry_event WHERE tenant_id = %(tenant)s AND decision_id IS NOT NULL "
    "AND 'promotion-' || id = ANY(%(ids)s)",
    "search": "SELECT id, state, payload ->> 'metric' AS metric, created_at, started_at, finished_at FROM core.job "
    "WHERE tenant_id = %(tenant)s AND kind = 'training.search' AND id = ANY(%(ids)s)",
    "trial": f"SELECT {_TRIAL} AS id, t.state, t.value, t.params, t.job_id, t.created_at FROM {_TRIALS} "
    f"WHERE t.tenant_id = %(tenant)s AND {_TRIAL} = ANY(%(ids)s)",
}

ANSWERS = f"""
SELECT {ANSWER} AS id, t.model, t.endpoint, t.status, t.created_at, t.job_id, t.trace_id,
    t.metadata ->> 'task' AS task FROM {_LEDGER}
WHERE t.tenant_id = %(tenant)s AND {_NAME} = %(name)s
  AND (%(version)s = '' OR t.metadata ->> 'registry_version' = %(version)s)
  AND (%(after)s::bigint IS NULL OR t.id < %(after)s) ORDER BY t.id DESC LIMIT %(limit)s"""


def answers(connection: Connection, tenant: UUID, release: str, after: int | None, limit: int) -> list[Row]:
    """What a registered model, or a version of it, answered under its name, newest first."""
    name, _, version = release.partition("@")
    values = {"tenant": tenant, "name": name, "version": version, "after": after, "limit": limit}
    return connection.execute(ANSWERS, values).fetchall()
