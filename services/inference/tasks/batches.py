"""Queue entries of batches: the plan, its shards, and putting the files together."""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.inference import repository
from services.inference.answers import StoredRow, refusal, row_error
from services.inference.batch_input import lines, parse_row, plan
from services.inference.engine_process import EngineProcess
from services.inference.output_files import OutputFiles
from services.inference.shard import Pending, ShardRun
from services.inference.task_rows import BatchTasks
from services.inference.tasks.placed import asking
from shared.contracts.answers import CHAT, TEXT
from shared.contracts.batches import Batch, BatchShard
from shared.contracts.embeddings import EMBEDDINGS
from shared.contracts.inference import ModelRef, rows_queue
from shared.contracts.retrieval import FindPassages, Found, Question
from shared.db import Connection, retrying
from shared.errors import HeliuError, InvalidInput
from shared.job_context import JobContext, Outcome, Waiting
from shared.jobs import Status, new_id
from shared.worker import Platform

SHARDS_IN_ONE_TRACE = 80
OPERATIONS = {CHAT: "chat", TEXT: "text_completion", EMBEDDINGS: "embeddings"}
# Why a row has no answer, where it is not its shard's fault.
UNANSWERED = {
    Status.CANCELLED: ("batch_cancelled", "the batch was cancelled before this row"),
    Status.EXPIRED: ("batch_expired", "the batch's completion window ended before this row"),
}


def batch(platform: Platform, ctx: JobContext, job: Batch) -> Outcome | Waiting:
    """First time: check the input and hand out shards. When they have ended: put the files together."""
    if ctx.job.progress.get("phase") in ("rows", "finalizing"):
        return _finalize(platform, ctx, job)
    passages = _passages(ctx) if ctx.job.progress.get("asked") else None
    found = _found(platform, passages) if passages else None
    with platform.tracing.span("batch.plan", parent=ctx.span.traceparent) as span:
        with platform.artifacts.open(job.artifact) as source:
            rows, named = platform.settings.shard_rows, _tasks(platform, ctx, ctx.job.id, job, found)
            planned = plan(source, job.endpoint, job.models, rows, named)
        span.set(rows=planned.rows, shards=len(planned.shards), errors=len(planned.errors))
    if planned.errors:
        first = planned.errors[0]
        return Outcome(
            status=Status.FAILED,
            result={
                "errors": [asdict(error) for error in planned.errors],
                "request_counts": {"total": planned.rows, "completed": 0, "failed": 0},
            },
            error={"code": first.code, "message": first.message, "line": first.line, "param": first.param},
        )
    if named.questions:
        return _ask(platform, ctx, job, named.questions)
    models = {name: job.models[name] for name in planned.models}
    own_traces = len(planned.shards) > SHARDS_IN_ONE_TRACE
    queue = _rows_queue(platform, job.pool, models.values())
    children = []
    for shard in planned.shards:
        payload = BatchShard(
            batch_id=ctx.job.id,
            artifact=job.artifact,
            endpoint=job.endpoint,
            models=models,
            tasks={name: job.tasks[name] for name in planned.tasks},
            registered={name: job.registered[name] for name in planned.registered},
            passages=passages,
            first=shard.first,
            count=shard.count,
            start=shard.start,
            end=shard.end,
        )
        traceparent = ctx.span.traceparent
        if own_traces:
            root = platform.tracing.start("batch.shard", links=[traceparent])
            root.end()
            traceparent = root.traceparent
        cost = shard.count / platform.settings.shard_rows
        children.append(ctx.part(payload, queue, cost=cost, traceparent=traceparent))
    return Waiting(
        children,
        {
            "phase": "rows",
            "request_counts": {"total": planned.rows, "completed": 0, "failed": 0},
            "model": planned.models[0] if len(planned.models) == 1 else None,
            "in_progress_at": int(time.time()),
            "finalize_on_cancel": True,
        },
    )


def _ask(platform: Platform, ctx: JobContext, job: Batch, questions: Sequence[Question]) -> Waiting:
    """Have data governance find what the rows of tasks with retrieval answer from; the plan is made again then."""
    lines = "".join(question.model_dump_json() + "\n" for question in questions)
    contract = FindPassages(artifact=platform.artifacts.put(io.BytesIO(lines.encode()))[0], pool=job.pool)
    child = ctx.part(contract, FindPassages.queue_for(job.pool))
    return Waiting([child], {"asked": len(questions)})


def _passages(ctx: JobContext) -> str:
    """The artifact of what was found. Raises HeliuError with what the search failed of."""
    with ctx.transaction() as connection:
        state, result, error = repository.part(connection, ctx.job.id, FindPassages.kind)
    if state != Status.SUCCEEDED.value:
        raise InvalidInput(
            f"the passages of the rows could not be found: {(error or {}).get('message', state)}",
            code=str((error or {}).get("code", "internal_error")),
        )
    return str((result or {})["artifact"])


def _found(platform: Platform, artifact: str, wanted: frozenset[str] | None = None) -> dict[str, Found]:
    """By custom_id; of all, what a plan needs: which there are, and no passages, which would fill the memory."""
    kept: dict[str, Found] = {}
    with platform.artifacts.open(artifact) as source:
        for line in source:
            one = Found.model_validate_json(line)
            if wanted is None or one.id in wanted:
                kept[one.id] = one if wanted is not None else one.model_copy(update={"passages": ()})
    return kept


def _rows_queue(platform: Platform, pool: str, models: Iterable[ModelRef]) -> str:
    """Where a batch's shards go: to workers that name its one base, where such live, else to those of any."""
    bases = {model.base_name for model in models}
    if len(bases) == 1:
        named = rows_queue(pool, bases.pop())
        with platform.db.core() as connection:
            if repository.is_heard(connection, named):
                return named
    return BatchShard.queue_for(pool)


def shard(platform: Platform, engine: EngineProcess, ctx: JobContext, job: BatchShard) -> Outcome:
    """Answer the shard's rows that are not stored yet; what was stored before a crash stays."""
    with ctx.transaction() as connection:
        done = repository.done_rows(connection, job.batch_id, job.first, job.count)
        markings = repository.markings(connection, ctx.job.tenant_id)
    pending, refused = [], []
    found = _found_of(platform, job) if job.passages else None
    named = _tasks(platform, ctx, job.batch_id, job, found)
    with platform.artifacts.open(job.artifact) as source:
        for offset, line in enumerate(lines(source, job.start, job.end)):
            number = job.first + offset
            if number in done:
                continue
            row = parse_row(line.content, job.endpoint, named)
            if row.refused is not None:
                refused.append(StoredRow(number, row.custom_id, 400, refusal(row.refused)))
            else:
                pending.append(Pending(number, row, job.models[row.request.model]))

    def store(rows: list[StoredRow]) -> None:
        numbers = {row.row_no for row in rows}

        def write() -> None:
            with ctx.transaction() as connection:
                if numbers <= repository.done_rows(connection, job.batch_id, job.first, job.count):
                    return  # an earlier COMMIT got through and only its reply was lost
                repository.add_rows(
                    connection,
                    tenant=ctx.job.tenant_id,
                    batch_id=job.batch_id,
                    epoch=ctx.job.epoch,
                    rows=rows,
                    endpoint=job.endpoint,
                    pool=platform.settings.pool,
                    api_key_id=ctx.job.api_key_id,
                    trace_id=ctx.job.trace_id,
                )

        retrying(write, attempts=8, patience=0.2)
        ctx.touch()

    if refused:
        store(refused)
    tenant = str(ctx.job.tenant_id)
    run = ShardRun(engine, job.endpoint, job.batch_id, tenant, ctx.job.epoch, store, markings)
    with ExitStack() as spans:
        known: dict[str, dict[str, Any]] = {}

        def fetch(model: ModelRef) -> dict[str, Any]:
            if model.name not in known:
                # Of the rows that go to an upstream, one span a shard: a batch has thousands.
                way = asking(
                    platform,
                    engine,
                    model,
                    OPERATIONS.get(job.endpoint, job.endpoint),
                    parent=ctx.span.traceparent,
                )
                known[model.name], _ = spans.enter_context(way)
            return known[model.name]

        run.answer(pending, ctx, fetch)
    return Outcome(result={"rows": job.count, "answered_before": len(done)})


def _found_of(platform: Platform, job: BatchShard) -> dict[str, Found]:
    """What was found for the rows of a shard."""
    assert job.passages is not None
    with platform.artifacts.open(job.artifact) as source:
        ids = frozenset(
            str(json.loads(line.content)["custom_id"]) for line in lines(source, job.start, job.end)
        )
    return _found(platform, job.passages, ids)


def _tasks(
    platform: Platform,
    ctx: JobContext,
    batch_id: str,
    job: Batch | BatchShard,
    found: Mapping[str, Found] | None = None,
) -> BatchTasks:
    def find(task_id: str, version: int) -> dict[str, Any] | None:
        # Not under the job's lock, which some callers hold: versions never change.
        with platform.db.transaction(ctx.job.tenant_id) as connection:
            return repository.task_spec(connection, task_id, version)

    return BatchTasks(batch_id, job.tasks, find, found, job.registered)


def _finalize(platform: Platform, ctx: JobContext, job: Batch) -> Outcome:
    """Error rows for what no shard answered, then output and error file, and the end, in one transaction."""
    ctx.progress(phase="finalizing", finalizing_at=int(time.time()))
    ended_as = Status.SUCCEEDED
    if ctx.job.cancel_requested_at is not None:
        ended_as = Status.EXPIRED if ctx.job.progress.get("expired") else Status.CANCELLED
    total = int(ctx.job.progress["request_counts"]["total"])
    _fill_gaps(platform, ctx, job, ended_as)
    work = platform.settings.home / "work"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=ctx.job.id, dir=work) as scratch:
        files = OutputFiles(Path(scratch), ctx.job.id)
        after = -1
        while True:
            with ctx.transaction() as connection:
                rows = repository.page(connection, ctx.job.id, after)
            if not rows:
                break
            files.add(rows)
            after = rows[-1]["row_no"]
            ctx.touch()
        with ctx.transaction() as connection:
            counts = repository.counts(connection, ctx.job.id)
        if counts["completed"] + counts["failed"] != total:
            raise HeliuError(
                f"batch {ctx.job.id} has {counts['completed'] + counts['failed']} rows stored of {total}",
                code="internal_error",
                retryable=True,
            )
        stored = {
            name: (*platform.artifacts.put(path.open("rb")), new_id("file-")) for name, path in files.close()
        }

    def write(connection: Connection) -> None:
        for name, (artifact, size, file_id) in stored.items():
            filename = f"{ctx.job.id}_{name}.jsonl"
            repository.add_output_file(
                connection, file_id, ctx.job.tenant_id, filename, size, artifact, ctx.job.id
            )

    return Outcome(
        status=ended_as,
        result={
            "request_counts": {"total": total, "completed": counts["completed"], "failed": counts["failed"]},
            "usage": {
                "input_tokens": counts["prompt_tokens"],
                "output_tokens": counts["completion_tokens"],
                "total_tokens": counts["prompt_tokens"] + counts["completion_tokens"],
            },
            "model": ctx.job.progress.get("model"),
            "output_file_id": stored["output"][2] if "output" in stored else None,
            "error_file_id": stored["error"][2] if "error" in stored else None,
        },
        write=write,
    )


def _fill_gaps(platform: Platform, ctx: JobContext, job: Batch, ended_as: Status) -> None:
    with ctx.transaction() as connection:
        unfinished = list(repository.unfinished_shards(connection, ctx.job.id))
    named = _tasks(platform, ctx, ctx.job.id, job)
    for payload, error, state in unfinished:
        part = BatchShard.model_validate(payload)
        code, message = UNANSWERED.get(
            ended_as, (str(error.get("code", f"shard_{state}")), str(error.get("message", state)))
        )
        with ctx.transaction() as connection, platform.artifacts.open(job.artifact) as source:
            done = repository.done_rows(connection, ctx.job.id, part.first, part.count)
            rows = []
            for offset, line in enumerate(lines(source, part.start, part.end)):
                if part.first + offset in done:
                    continue
                try:
                    custom_id = parse_row(line.content, job.endpoint, named).custom_id
                except InvalidInput as exc:
                    raise HeliuError(f"a checked line no longer parses: {exc.message}") from exc
                status = 499 if ended_as in UNANSWERED else 500
                rows.append(StoredRow(part.first + offset, custom_id, status, row_error(code, message)))
            repository.add_rows(
                connection,
                tenant=ctx.job.tenant_id,
                batch_id=ctx.job.id,
                epoch=ctx.job.epoch,
                rows=rows,
                endpoint=job.endpoint,
                pool=job.pool,
                api_key_id=None,
                trace_id=None,
            )
