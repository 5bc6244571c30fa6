"""Queue entries of inference: the live answer, the batch and its shards, the import of a model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.inference import importing, placement, repository, vectors
from services.inference.answers import StoredRow, refusal, row_error
from services.inference.batch_input import lines, parse_row, plan
from services.inference.choices import Choices, calls, index_of
from services.inference.engine_process import EngineProcess
from services.inference.hub import Hub, HubFile
from services.inference.output_files import OutputFiles
from services.inference.shard import Pending, ShardRun
from services.inference.task_rows import BatchTasks
from shared import semconv
from shared.contracts.inference import (
    Batch,
    BatchShard,
    Detokenize,
    Embed,
    Generate,
    ModelRef,
    Tokenize,
    rows_queue,
)
from shared.contracts.models import ImportModel, ModelFile
from shared.contracts.task import TaskRoute
from shared.db import Connection, retrying
from shared.errors import HeliuError, InvalidInput
from shared.frames import Frame
from shared.job_context import JobContext, Outcome, Waiting
from shared.jobs import NewJob, Status, new_id
from shared.live_server import LiveContext
from shared.outbound import OutboundClient
from shared.worker import Platform

SHARDS_IN_ONE_TRACE = 80
# Why a row has no answer, where it is not its shard's fault.
UNANSWERED = {
    Status.CANCELLED: ("batch_cancelled", "the batch was cancelled before this row"),
    Status.EXPIRED: ("batch_expired", "the batch's completion window ended before this row"),
}
HUB_SILENCE_S = 30.0


def holdings(platform: Platform, engine: EngineProcess) -> dict[str, Any]:
    """What this worker may serve and what it holds, for its heartbeat; as the engine said a heartbeat ago."""
    engine.ask_stats()
    return placement.holdings(
        platform.settings.served_models, engine.stats, dict(engine.loaded_at), dict(engine.names)
    )


def models_for_engine(platform: Platform, engine: EngineProcess, model: ModelRef) -> dict[str, Any]:
    """The engine's `base` and `adapter` of a request, fetched into the local cache at first use.

    Raises HeliuError for a base that this worker does not serve.
    """
    placement.check_served(platform.settings.served_models, model.base_name)
    engine.names[model.base_artifact] = model.base_name
    if model.adapter_artifact:
        engine.names[model.adapter_artifact] = model.name
    cache = platform.settings.home / "cache"

    def local(artifact: str) -> dict[str, str]:
        return {"id": artifact, "path": str(platform.artifacts.materialize(artifact, cache).absolute())}

    return {
        "base": local(model.base_artifact),
        "adapter": local(model.adapter_artifact) if model.adapter_artifact else None,
    }


def generate(platform: Platform, engine: EngineProcess, ctx: LiveContext, call: Generate) -> dict[str, Any]:
    """Live answers: tokens as they come, then the whole with its usage."""
    with platform.tracing.span(
        f"chat {call.model.name}" if call.messages else f"text_completion {call.model.name}",
        parent=ctx.span.traceparent,
        attributes={
            semconv.GEN_AI_OPERATION: "chat" if call.messages else "text_completion",
            semconv.GEN_AI_REQUEST_MODEL: call.model.name,
            semconv.TENANT: ctx.tenant,
        },
    ) as span:
        answers = Choices(call)
        common = {"tenant": ctx.tenant, "priority": "live", **models_for_engine(platform, engine, call.model)}
        asked = engine.submit(calls(f"{ctx.request}.{ctx.attempt}", call, common))
        try:
            for frame in asked.frames():
                if ctx.cancelled.is_set():
                    asked.cancel()
                if frame is None:
                    continue
                if frame["type"] == "error":
                    raise HeliuError(
                        frame["message"],
                        code=frame["code"],
                        param=frame.get("param"),
                        retryable=frame["retryable"],
                    )
                if frame["type"] == "token":
                    ctx.send("token", _token_entry(frame))
                else:
                    _record(platform, span.traceparent, frame)
                    if not answers.take(frame) and len(answers) > 1:
                        # One of several has ended: its client need not wait for the others to know.
                        ended = {"choice": index_of(frame["id"]), "text": "", "tokens": 0}
                        ctx.send("token", {**ended, "finish_reason": frame["finish_reason"]})
        except HeliuError:
            # What one choice fails of, the others would; nobody waits for them any more.
            asked.cancel()
            raise
        result = answers.result()
        usage = result["usage"]
        span.set_all(
            {
                semconv.GEN_AI_INPUT_TOKENS: usage["prompt_tokens"],
                semconv.GEN_AI_OUTPUT_TOKENS: usage["completion_tokens"],
                semconv.GEN_AI_FINISH_REASONS: [choice["finish_reason"] for choice in result["choices"]],
            }
        )
        _count(platform, call.model.name, usage, result["timings"])
        return result


def embed(platform: Platform, engine: EngineProcess, ctx: LiveContext, call: Embed) -> dict[str, Any]:
    """Vectors of texts, in entries of a few, then how many tokens they had."""
    with platform.tracing.span(
        f"embeddings {call.model.name}",
        parent=ctx.span.traceparent,
        attributes={
            semconv.GEN_AI_OPERATION: "embeddings",
            semconv.GEN_AI_REQUEST_MODEL: call.model.name,
            semconv.TENANT: ctx.tenant,
        },
    ) as span:
        made = vectors.Vectors(call)
        common = {"tenant": ctx.tenant, "priority": "live", **models_for_engine(platform, engine, call.model)}
        asked = engine.submit(vectors.calls(f"{ctx.request}.{ctx.attempt}", call, call.model.encoder, common))
        for frame in asked.frames():
            if ctx.cancelled.is_set():
                asked.cancel()
                raise HeliuError("whoever asked has gone", code="client_closed_request")
            if frame is None:
                continue
            if frame["type"] == "error":
                # Nobody waits for the others any more.
                asked.cancel()
                raise vectors.failure(call, frame)
            made.take(frame)
        for part in made.spans():
            platform.tracing.record(
                part["name"],
                part["start_ns"],
                part["end_ns"],
                parent=span.traceparent,
                attributes=part["attributes"],
            )
        result = made.result()
        tokens = result["usage"]["prompt_tokens"]
        span.set_all({semconv.GEN_AI_INPUT_TOKENS: tokens})
        platform.metrics.tokens.labels(call.model.name, "input").inc(tokens)
        for piece in vectors.pieces(result.pop("vectors")):
            ctx.send("vectors", {"vectors": piece})
        return result


def tokenize(platform: Platform, engine: EngineProcess, ctx: LiveContext, call: Tokenize) -> dict[str, Any]:
    """Tokens of a text or of a chat."""
    given: dict[str, Any] = {"prompt": call.prompt, "add_special_tokens": call.add_special_tokens}
    if call.messages:
        given = {
            "messages": [message.model_dump(mode="json") for message in call.messages],
            "tools": [tool.model_dump(mode="json") for tool in call.tools],
            "add_generation_prompt": call.add_generation_prompt,
        }
    return _beside(platform, engine, ctx, call.model, {"op": "tokenize", "texts": call.token_strs, **given})


def detokenize(
    platform: Platform, engine: EngineProcess, ctx: LiveContext, call: Detokenize
) -> dict[str, Any]:
    """The text of tokens."""
    frame = {"op": "detokenize", "tokens": list(call.tokens)}
    return _beside(platform, engine, ctx, call.model, frame)


def _beside(
    platform: Platform, engine: EngineProcess, ctx: LiveContext, model: ModelRef, frame: Frame
) -> dict[str, Any]:
    """One frame and its answer, with a span."""
    with platform.tracing.span(
        f"{frame['op']} {model.name}",
        parent=ctx.span.traceparent,
        attributes={semconv.GEN_AI_REQUEST_MODEL: model.name, semconv.TENANT: ctx.tenant},
    ):
        name = f"{ctx.request}.{ctx.attempt}.0"
        known = models_for_engine(platform, engine, model)
        asked = engine.submit([{"id": name, **known, "encoder": model.encoder, **frame}])
        (answer,) = [told for told in asked.frames() if told is not None]
        if answer["type"] == "error":
            raise HeliuError(
                answer["message"],
                code=answer["code"],
                param=answer.get("param"),
                retryable=answer["retryable"],
            )
        return {key: value for key, value in answer.items() if key not in ("type", "id")}


def _token_entry(frame: Frame) -> dict[str, Any]:
    entry = {"choice": index_of(frame["id"]), "text": frame["text"], "tokens": frame["tokens"]}
    return entry | {name: value for name, value in frame.items() if name in ("logprobs", "tool_calls")}


def _record(platform: Platform, parent: str | None, done: Frame) -> None:
    for part in done.get("spans", ()):
        platform.tracing.record(
            part["name"],
            part["start_ns"],
            part["end_ns"],
            parent=parent,
            attributes=part.get("attributes"),
            # Decoding begins with the first token, which the prefill gave.
            events=[("first_token", part["start_ns"])] if part["name"] == "engine.decode" else (),
        )


def _count(platform: Platform, model: str, usage: dict[str, int], timings: dict[str, float]) -> None:
    metrics = platform.metrics
    metrics.tokens.labels(model, "input").inc(usage["prompt_tokens"])
    metrics.tokens.labels(model, "output").inc(usage["completion_tokens"])
    if timings.get("first_token_s") is not None:
        metrics.first_token.labels(model).observe(timings["first_token_s"])
    if usage["completion_tokens"] > 1:
        metrics.per_token.labels(model).observe(timings["decode_s"] / (usage["completion_tokens"] - 1))


def batch(platform: Platform, ctx: JobContext, job: Batch) -> Outcome | Waiting:
    """First time: check the input and hand out shards. When they have ended: put the files together."""
    if ctx.job.progress.get("phase") in ("rows", "finalizing"):
        return _finalize(platform, ctx, job)
    with platform.tracing.span("batch.plan", parent=ctx.span.traceparent) as span:
        with platform.artifacts.open(job.artifact) as source:
            encoders = {name for name, model in job.models.items() if model.encoder}
            rows, named = platform.settings.shard_rows, _tasks(platform, ctx, ctx.job.id, job.tasks)
            planned = plan(source, job.endpoint, job.models.keys(), rows, encoders, named)
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
        children.append(
            NewJob(
                id=new_id(BatchShard.id_prefix),
                tenant_id=ctx.job.tenant_id,
                kind=BatchShard.kind,
                queue=queue,
                payload=payload.dump(),
                priority=ctx.job.priority,
                max_attempts=BatchShard.max_attempts,
                max_crashes=BatchShard.max_crashes,
                cost=shard.count / platform.settings.shard_rows,
                parent_id=ctx.job.id,
                api_key_id=ctx.job.api_key_id,
                traceparent=traceparent,
            )
        )
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
    pending, refused = [], []
    named = _tasks(platform, ctx, job.batch_id, job.tasks)
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
    run = ShardRun(engine, job.endpoint, job.batch_id, str(ctx.job.tenant_id), ctx.job.epoch, store)
    run.answer(pending, ctx, lambda model: models_for_engine(platform, engine, model))
    return Outcome(result={"rows": job.count, "answered_before": len(done)})


def _tasks(platform: Platform, ctx: JobContext, batch_id: str, routes: Mapping[str, TaskRoute]) -> BatchTasks:
    def find(task_id: str, version: int) -> dict[str, Any] | None:
        # Not under the job's lock, which some callers hold: versions never change.
        with platform.db.transaction(ctx.job.tenant_id) as connection:
            return repository.task_spec(connection, task_id, version)

    return BatchTasks(batch_id, routes, find)


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
    named = _tasks(platform, ctx, ctx.job.id, job.tasks)
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


def import_model(platform: Platform, ctx: JobContext, job: ImportModel) -> Outcome:
    """A model from uploaded files or the hub, checked in a process of its own, served from then on."""
    origin: dict[str, Any] = {"source": "folder"}
    files = job.files
    if job.hub_id is not None:
        files, commit = _from_hub(platform, ctx, job, job.hub_id)
        origin = {"source": "hub", "hub_id": job.hub_id, "revision": job.revision, "commit": commit}
    ctx.progress(phase="checking")
    artifact = platform.artifacts.put_listing([file.model_dump() for file in files])
    work = platform.settings.home / "work"
    work.mkdir(parents=True, exist_ok=True)
    with (
        platform.tracing.span("model.check", parent=ctx.span.traceparent) as span,
        tempfile.TemporaryDirectory(prefix=ctx.job.id, dir=work) as scratch,
    ):
        base = (
            platform.artifacts.materialize(job.base.artifact, platform.settings.home / "cache")
            if job.base is not None
            else None
        )
        found = importing.check(
            ctx,
            platform.artifacts.materialize(artifact, Path(scratch)),
            kind=job.model_kind,
            base=base,
            threads=platform.settings.threads,
        )
        span.set(kind=found["kind"], files=len(files))
    for warning in found["warnings"]:
        ctx.event("message", warning, level="warn")
    kind = str(found["kind"])
    if kind != "adapter" and job.base is not None:
        raise InvalidInput(f"this is no adapter but a model of kind {kind!r}: it takes no base", param="base")
    info = {**found["info"], **origin, "warnings": found["warnings"]}
    return Outcome(
        result={"model": job.name, "kind": kind, "artifact": artifact, **info},
        write=lambda connection: repository.add_model(
            connection,
            ctx.job.tenant_id,
            job.name,
            kind=kind,
            artifact=artifact,
            job_id=ctx.job.id,
            info=info,
            base=(job.base.model, job.base.artifact) if job.base is not None else None,
        ),
    )


def _from_hub(
    platform: Platform, ctx: JobContext, job: ImportModel, hub_id: str
) -> tuple[tuple[ModelFile, ...], str]:
    """The hub's files and the commit that they are of; what an earlier attempt brought is not asked for again."""
    settings = platform.settings
    if not settings.hub_url:
        raise HeliuError(
            "this worker has no HELIU_HUB_URL to import from", code="hub_disabled", param="hub_id"
        )
    client = OutboundClient(
        timeout_s=HUB_SILENCE_S, allow_private=settings.hub_allow_private, setting="HELIU_HUB_ALLOW_PRIVATE"
    )
    hub = Hub(settings.hub_url, client, token=settings.hub_token, max_bytes=settings.max_model_bytes)
    fetched: dict[str, str] = dict(ctx.job.progress.get("fetched") or {})
    with platform.tracing.span("model.fetch", parent=ctx.span.traceparent) as span:
        # The first attempt's commit stands: a branch may have moved on since.
        revision = str(ctx.job.progress.get("commit") or job.revision)
        repository_ = hub.look(hub_id, revision)
        total = sum(file.bytes for file in repository_.files)
        ctx.progress(phase="fetching", commit=repository_.commit, total_bytes=total)

        def moved(count: int) -> None:
            ctx.progress(bytes=count)

        def tell(file: HubFile, artifact: str) -> None:
            fetched[file.path] = artifact
            done = sum(one.bytes for one in repository_.files if one.path in fetched)
            ctx.progress(fetched=fetched, bytes=done)
            ctx.event("message", f"{file.path} is here, {done} of {total} bytes", {"path": file.path})

        files = importing.fetch(hub, platform.artifacts, repository_.files, fetched, ctx, moved, tell)
        span.set(files=len(files), bytes=total)
    return files, repository_.commit
