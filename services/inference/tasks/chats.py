"""Queue entry of chats in the background: one answer, told to its readers as it grows, and kept when it is whole."""

from __future__ import annotations

import time
from typing import Any

from services.inference import repository
from services.inference.engine_process import EngineCrashed, EngineProcess
from services.inference.tasks import answering
from shared import semconv, stored_chats
from shared.contracts.answers import usage_object
from shared.contracts.background import ChatJob, answer_of, pack_entries
from shared.contracts.stored_chats import body_of, names_of
from shared.contracts.task import TaskSpec
from shared.db import Connection
from shared.errors import HeliuError
from shared.job_context import JobContext, Outcome
from shared.jobs import Status
from shared.kept import KeptWriter, KeptWriters
from shared.stop import ChildCrashed, Stop, Stopped
from shared.stored_chats import StoredChat
from shared.task.guarded import GuardedAnswer
from shared.worker import Platform


class _Telling:
    """What has been said of one attempt: guarded, kept for readers, and held for the end."""

    def __init__(self, kept: KeptWriter, guard: GuardedAnswer | None) -> None:
        self.entries: list[tuple[str, dict[str, Any]]] = []
        self.guard = guard
        self._kept = kept
        kept.send("accepted", {})

    def token(self, data: dict[str, Any]) -> None:
        shown = self.guard.token(data) if self.guard is not None else data
        if shown is not None:
            self.entries.append(("token", shown))
            self._kept.send("token", shown)

    def done(self, result: dict[str, Any]) -> dict[str, Any]:
        """The answer as it may be shown. Readers hear that it is near: what it is they read where it is committed."""
        shown = self.guard.done(result) if self.guard is not None else result
        self.entries.append(("done", shown))
        self._kept.send("ended", {})
        return shown

    @property
    def enough(self) -> bool:
        return self.guard is not None and self.guard.enough()


def chat(
    platform: Platform, engine: EngineProcess, kept: KeptWriters, ctx: JobContext, job: ChatJob
) -> Outcome:
    """Answer, from the beginning whenever it is run: the reader's side passes over what is said again."""
    guard, metadata = _task(platform, ctx, job)
    metadata |= job.release.metadata if job.release else {}
    telling = _Telling(kept.open(ctx.job.id, ctx.job.epoch), guard)
    began_ns = time.time_ns()
    try:
        result = answering.answer(
            platform,
            engine,
            job.call,
            name=f"{ctx.job.id}:{ctx.job.epoch}",
            tenant=str(ctx.job.tenant_id),
            priority="live" if ctx.job.priority > 0 else "batch",
            parent=ctx.span.traceparent,
            start_s=None,
            cancelled=lambda: ctx.asked.is_set() or telling.enough,
            say=telling.token,
            repeatable=True,
        )
    except HeliuError as exc:
        if exc.code == EngineCrashed.code:
            raise ChildCrashed(exc.message) from exc
        raise
    if guard is not None:
        _record(platform, ctx, guard, began_ns)
        metadata |= {"refused_by": ", ".join(guard.refused)} if guard.refused else {}
    metadata |= {"decoding": result["decoding"]} if result.get("decoding") else {}
    whole = telling.enough or all(choice["finish_reason"] != "cancelled" for choice in result["choices"])
    if not whole and ctx.reason is not Stop.CANCEL:
        assert ctx.reason is not None
        raise Stopped(ctx.reason)
    shown = telling.done(result)
    entries = pack_entries(telling.entries) if whole else None

    def write(connection: Connection) -> None:
        repository.add_chat(
            connection,
            ctx.job,
            job,
            pool=platform.settings.pool,
            status="ok" if whole else "cancelled",
            result=shown,
            metadata=metadata,
            entries=entries,
        )
        if job.store and whole:
            stored_chats.add(connection, ctx.job.tenant_id, _stored(ctx, job, shown))

    if not whole:
        # What was computed until then is charged, as of a live answer whose client goes.
        error = {"code": "cancelled", "message": "cancelled on request"}
        return Outcome(status=Status.CANCELLED, error=error, write=write)
    return Outcome(
        result={
            "answer": answer_of(ctx.job.id, job.endpoint),
            "location": f"{job.endpoint}/{ctx.job.id}",
            "finish_reasons": [choice["finish_reason"] for choice in shown["choices"]],
            "usage": usage_object(shown["usage"]),
        },
        write=write,
    )


def _stored(ctx: JobContext, job: ChatJob, shown: dict[str, Any]) -> StoredChat:
    """The chat as it is stored, in the transaction that ends its job."""
    body = body_of(
        job.call,
        created=int(ctx.job.created_at.timestamp()),
        choices=shown["choices"],
        usage=shown["usage"],
        marking=job.marking,
        request_id=ctx.job.id,
    )
    names = names_of(job.shown, job.call.model.name)
    answer = answer_of(ctx.job.id, job.endpoint)
    return StoredChat(answer, job.shown, names, body, ctx.job.metadata or {}, ctx.job.api_key_id)


def _task(platform: Platform, ctx: JobContext, job: ChatJob) -> tuple[GuardedAnswer | None, dict[str, Any]]:
    """(the guards of the task that was asked, what the ledger says of it)."""
    used = job.task
    if used is None:
        return None, {}
    with platform.db.transaction(ctx.job.tenant_id) as connection:
        stored = repository.task_spec(connection, used.id, used.version)
    if stored is None:
        raise HeliuError(f"the task {used.name!r} has no version {used.version}", code="model_not_found")
    guard = TaskSpec.model_validate(stored).guards.output
    metadata = {"task": used.name, "task_version": used.version}
    return (None if guard.empty else GuardedAnswer(guard, job.call.n)), metadata


def _record(platform: Platform, ctx: JobContext, guard: GuardedAnswer, began_ns: int) -> None:
    platform.tracing.record(
        "guard.output",
        began_ns,
        time.time_ns(),
        parent=ctx.span.traceparent,
        attributes={
            semconv.GUARD_REFUSED: ", ".join(guard.refused) or None,
            semconv.GUARD_MASKED: guard.masked,
        },
    )
