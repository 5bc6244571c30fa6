"""SQL of batch rows, of the files and usage that a batch leaves, of models brought in and of upstreams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from psycopg.types.json import Json, Jsonb

from services.inference.answers import StoredRow
from shared.contracts.background import ChatJob, answer_of
from shared.contracts.embeddings import EMBEDDINGS
from shared.contracts.inference import ModelRef
from shared.contracts.marking import Marking
from shared.db import Connection
from shared.errors import Conflict
from shared.jobs import Job

ADD_ROW = """
INSERT INTO inference.batch_row (batch_id, row_no, tenant_id, custom_id, status_code, body, prompt_tokens,
    completion_tokens, epoch) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"""

ADD_USAGE = """
INSERT INTO gateway.usage (tenant_id, api_key_id, request_id, job_id, endpoint, model, model_artifact, pool, status,
    prompt_tokens, completion_tokens, seconds, trace_id, metadata, answer_id)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""

ADD_ANSWER = "INSERT INTO inference.chat_answer (job_id, tenant_id, entries) VALUES (%s, %s, %s)"

DONE_ROWS = "SELECT row_no FROM inference.batch_row WHERE batch_id = %s AND row_no >= %s AND row_no < %s"

COUNTS = """
SELECT count(*) FILTER (WHERE status_code = 200) AS completed, count(*) FILTER (WHERE status_code <> 200) AS failed,
    COALESCE(sum(prompt_tokens), 0) AS prompt_tokens, COALESCE(sum(completion_tokens), 0) AS completion_tokens
FROM inference.batch_row WHERE batch_id = %s"""

PAGE = """
SELECT row_no, custom_id, status_code, body FROM inference.batch_row
WHERE batch_id = %s AND row_no > %s ORDER BY row_no LIMIT %s"""

SHARD_ERRORS = """
SELECT payload, error, state FROM core.job WHERE parent_id = %s AND state <> 'succeeded' ORDER BY id"""

PART = """
SELECT state, result, error FROM core.job WHERE parent_id = %s AND kind = %s ORDER BY id DESC LIMIT 1"""

ADD_FILE = """
INSERT INTO gateway.file (id, tenant_id, filename, purpose, bytes, artifact, job_id)
VALUES (%s, %s, %s, 'batch_output', %s, %s, %s)"""

ADD_MODEL = """
INSERT INTO training.model (tenant_id, id, kind, base_id, artifact, base_artifact, job_id, info)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, id) DO NOTHING RETURNING id"""

# Locked, so that the base is not removed between this look and the adapter's first day.
LIVING_MODEL = """
SELECT artifact FROM training.model WHERE tenant_id = %s AND id = %s AND deleted_at IS NULL FOR SHARE"""

MARKINGS = "SELECT task, spec FROM gateway.marking WHERE tenant_id = %s"

TASK_SPEC = "SELECT spec FROM gateway.task_version WHERE task_id = %s AND version = %s"

# Read by the platform: a tenant's transactions do not see the key.
UPSTREAM = """
SELECT name, url, model, api_key, context_length AS context FROM inference.upstream WHERE id = %s"""

UPSTREAM_NAMES = "SELECT DISTINCT name FROM inference.upstream WHERE name = ANY(%s)"

LIVING = """
SELECT 1 FROM core.worker WHERE state = 'running' AND heartbeat_at > now() - interval '30 seconds' AND %s = ANY(queues)
LIMIT 1"""

PAGE_ROWS = 500


def add_rows(
    connection: Connection,
    *,
    tenant: UUID,
    batch_id: str,
    epoch: int,
    rows: Sequence[StoredRow],
    endpoint: str,
    pool: str,
    api_key_id: str | None,
    trace_id: str | None,
) -> None:
    """Insert rows, and a usage row for each answer, in the caller's fenced transaction. A row twice is an error."""
    with connection.cursor() as cursor:
        cursor.executemany(
            ADD_ROW,
            [
                (
                    batch_id,
                    row.row_no,
                    tenant,
                    row.custom_id,
                    row.status_code,
                    Json(row.body),
                    row.prompt_tokens,
                    row.completion_tokens,
                    epoch,
                )
                for row in rows
            ],
        )
        cursor.executemany(
            ADD_USAGE,
            [
                (
                    tenant,
                    api_key_id,
                    f"{batch_id}:{row.row_no}",
                    batch_id,
                    endpoint,
                    row.model,
                    row.model_artifact,
                    pool,
                    "ok",
                    row.prompt_tokens,
                    row.completion_tokens,
                    row.seconds,
                    trace_id,
                    Jsonb(row.metadata),
                    row.answer_id,
                )
                for row in rows
                if row.status_code == 200
            ],
        )


def add_chat(
    connection: Connection,
    job: Job,
    contract: ChatJob,
    *,
    pool: str,
    status: str,
    result: dict[str, Any],
    metadata: dict[str, Any],
    entries: bytes | None,
) -> None:
    """What a chat in the background leaves, in the transaction that ends its job: a usage row, and what was said.

    The row's request is the job, so that an answer that was made twice is not charged twice.
    """
    model, usage, timings = contract.call.model, result["usage"], result["timings"]
    connection.execute(
        ADD_USAGE,
        (
            job.tenant_id,
            job.api_key_id,
            job.id,
            job.id,
            contract.endpoint,
            model.name,
            model.adapter_artifact or model.base_artifact,
            pool,
            status,
            usage["prompt_tokens"],
            usage["completion_tokens"],
            timings["prefill_s"] + timings["decode_s"],
            job.trace_id,
            Jsonb(metadata),
            answer_of(job.id, contract.endpoint),
        ),
    )
    if entries is not None:
        connection.execute(ADD_ANSWER, (job.id, job.tenant_id, entries))


def add_embedding_usage(
    connection: Connection,
    job: Job,
    *,
    model: ModelRef,
    pool: str,
    tokens: int,
    seconds: float,
) -> None:
    """One row for all texts of a job, which stands for its request: a job that ran twice is charged once."""
    artifact = model.adapter_artifact or model.base_artifact
    connection.execute(
        ADD_USAGE,
        (
            job.tenant_id,
            job.api_key_id,
            job.id,
            job.id,
            EMBEDDINGS,
            model.name,
            artifact,
            pool,
            "ok",
            tokens,
            0,
            seconds,
            job.trace_id,
            Jsonb({}),
            None,
        ),
    )


def done_rows(connection: Connection, batch_id: str, first: int, count: int) -> set[int]:
    """Numbers of the rows in the range that are stored already."""
    rows = connection.execute(DONE_ROWS, (batch_id, first, first + count)).fetchall()
    return {row["row_no"] for row in rows}


def counts(connection: Connection, batch_id: str) -> dict[str, int]:
    row = connection.execute(COUNTS, (batch_id,)).fetchone()
    assert row is not None
    return {name: int(value) for name, value in row.items()}


def page(connection: Connection, batch_id: str, after: int) -> list[dict[str, Any]]:
    """The next rows by number, at most PAGE_ROWS."""
    return connection.execute(PAGE, (batch_id, after, PAGE_ROWS)).fetchall()


def unfinished_shards(
    connection: Connection, batch_id: str
) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """(payload, error, state) of every shard that did not succeed."""
    for row in connection.execute(SHARD_ERRORS, (batch_id,)).fetchall():
        yield row["payload"], row["error"] or {}, row["state"]


def add_output_file(
    connection: Connection, file_id: str, tenant: UUID, filename: str, size: int, artifact: str, job_id: str
) -> None:
    connection.execute(ADD_FILE, (file_id, tenant, filename, size, artifact, job_id))


def part(
    connection: Connection, parent: str, kind: str
) -> tuple[str, dict[str, Any] | None, dict[str, Any] | None]:
    """(state, result, error) of the latest part of this kind that a job handed out."""
    row = connection.execute(PART, (parent, kind)).fetchone()
    assert row is not None, f"{parent} has handed out no {kind}"
    return row["state"], row["result"], row["error"]


def is_heard(connection: Connection, queue: str) -> bool:
    """Whether a living worker takes from this queue."""
    return connection.execute(LIVING, (queue,)).fetchone() is not None


def add_model(
    connection: Connection,
    tenant: UUID,
    model_id: str,
    *,
    kind: str,
    artifact: str,
    job_id: str,
    info: dict[str, Any],
    base: tuple[str, str] | None,
) -> None:
    """Register a model; `base` is name and artifact of the one that an adapter stands on.

    Raises Conflict for a name that is taken, or a base that is gone.
    """
    if base is not None:
        row = connection.execute(LIVING_MODEL, (tenant, base[0])).fetchone()
        if row is None or row["artifact"] != base[1]:
            raise Conflict(
                f"the base {base[0]!r} was deleted meanwhile", code="model_not_found", param="base"
            )
    base_id, base_artifact = base or (None, None)
    added = connection.execute(
        ADD_MODEL, (tenant, model_id, kind, base_id, artifact, base_artifact, job_id, Jsonb(info))
    ).fetchone()
    if added is None:
        raise Conflict(
            f"a model {model_id!r} exists already, or did; choose another name",
            code="model_exists",
            param="name",
        )


def upstream(connection: Connection, upstream_id: str) -> dict[str, Any] | None:
    """Where a model stands that another server answers for, with its key; None when it was taken away."""
    return connection.execute(UPSTREAM, (upstream_id,)).fetchone()


def upstream_names(connection: Connection, names: Sequence[str]) -> set[str]:
    """Those of the names that stand for upstreams."""
    return {row["name"] for row in connection.execute(UPSTREAM_NAMES, (list(names),)).fetchall()}


def markings(connection: Connection, tenant: UUID) -> dict[str, Marking]:
    """How the tenant's answers are marked: by task, and under the empty name all others."""
    rows = connection.execute(MARKINGS, (tenant,)).fetchall()
    return {row["task"]: Marking.model_validate(row["spec"]) for row in rows}


def task_spec(connection: Connection, task_id: str, version: int) -> dict[str, Any] | None:
    """A version of a task, whether or not the task has been deleted since."""
    row = connection.execute(TASK_SPEC, (task_id, version)).fetchone()
    return row["spec"] if row is not None else None
