"""Queue entry of searches: comes back with each trial's end, asks what to try next, and registers the best one's model.

It holds a slot only while it looks. What it knows stands in rows, written in the transactions that hand trials out and
end them, so that one that is killed anywhere goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from services.training import repository as models
from services.training.repository import searches as repository
from services.training.search import ends
from services.training.search.placing import payload_of
from services.training.search.study import importance, propose
from services.training.search.trial import Trial, best_of
from services.training.tasks.trials import TIME_IS_OVER, trial_from
from shared import job_store
from shared.contracts.registry import parse_job
from shared.contracts.searches import RunSearch, trial_state
from shared.db import Connection, Row
from shared.job_context import JobContext, Outcome, Waiting
from shared.jobs import NewJob, Status
from shared.worker import Platform

MOST_AT_ONCE = 64


@dataclass(frozen=True)
class Look:
    """All trials as they stand, the rows they come from, and why those failed that did."""

    rows: Sequence[Row]
    trials: Sequence[Trial]
    errors: Mapping[int, Mapping[str, Any]]

    @property
    def open_jobs(self) -> list[str]:
        return [row["job_id"] for row, one in zip(self.rows, self.trials, strict=True) if one.state == "open"]


def search(platform: Platform, ctx: JobContext, job: RunSearch) -> Outcome | Waiting:
    """Settle what has ended, hand out what is due, and wait for the next end; at the last, register the best."""
    deadline = ctx.job.progress.get("deadline")
    if deadline is None and job.max_seconds is not None:
        deadline = time.time() + job.max_seconds
    look = _look(ctx, job)
    if ctx.job.cancel_requested_at is not None:
        if look.open_jobs:
            return Waiting([], {}, awaited=look.open_jobs)
        return _ended(ctx, job, look, Status.CANCELLED)
    late = deadline is not None and time.time() > deadline
    due = [] if late or ends.is_hopeless(look.trials, look.errors) else _due(platform, job, look)
    if not due and not look.open_jobs:
        return _registered(ctx, job, look)
    children = [_child(ctx, job, one, deadline) for one in due]

    def write(connection: Connection) -> None:
        for one, child in zip(due, children, strict=True):
            repository.add_trial(
                connection, ctx.job.tenant_id, ctx.job.id, one.number, child.id, dict(one.params)
            )

    return Waiting(
        children,
        {
            **_progress(job, look),
            "deadline": deadline,
            # What a cancel and a pause mean for a job that has trials: see shared.job_requests.
            "finalize_on_cancel": True,
            "pause_parts": True,
        },
        awaited=look.open_jobs,
        any_of=True,
        write=write,
    )


def _look(ctx: JobContext, job: RunSearch) -> Look:
    """The trials, those whose jobs have ended without a word settled now and told of once."""
    with ctx.transaction() as connection:
        rows = repository.trials(connection, ctx.job.id)
        for row in rows:
            if row["state"] != "open" or Status(row["job_state"]) in (
                Status.QUEUED,
                Status.LEASED,
                Status.PAUSED,
            ):
                continue
            row["state"] = trial_state("open", row["job_state"])
            row["error"] = _why(row)
            repository.settle(connection, ctx.job.id, row["number"], row["state"], error=row["error"])
        trials = [trial_from(row) for row in rows]
        best, new = best_of(trials, job.sign), list[int]()
        for one, row in zip(trials, rows, strict=True):
            if one.state == "open" or row["told"]:
                continue
            new.append(one.number)
            data = {"trial": one.number, "state": one.state, "value": one.value, "job_id": row["job_id"]}
            level = "warn" if one.state == "failed" else "info"
            message = ends.told_of(job, one, row["error"], best)
            job_store.add_event(connection, ctx.job, "trial_ended", message, data, level)
        repository.mark_told(connection, ctx.job.id, new)
    ctx.touch()
    return Look(rows, trials, {row["number"]: row["error"] for row in rows if row["error"]})


def _why(row: Row) -> dict[str, Any]:
    """Why a trial's job ended that said nothing of itself."""
    if row["job_state"] == Status.EXPIRED:
        return dict(TIME_IS_OVER)
    said = row["job_error"] or {}
    default = "cancelled on request" if row["job_state"] == Status.CANCELLED else "it ended without a value"
    return {"code": said.get("code", row["job_state"]), "message": said.get("message", default)}


def _due(platform: Platform, job: RunSearch, look: Look) -> list[Trial]:
    """The trials to hand out now: as many as may run at once, as long as some are left."""
    if job.parallel == "auto":
        with platform.db.core() as connection:
            room = max(1, min(MOST_AT_ONCE, repository.workers_of(connection, job.job_queue)))
    else:
        room = job.parallel
    known, due = list(look.trials), list[Trial]()
    running = len(look.open_jobs)
    while len(known) < job.trials and running + len(due) < room:
        params = propose(job, known, len(known))
        if params is None:
            break
        known.append(Trial(len(known), params))
        due.append(known[-1])
    return due


def _child(ctx: JobContext, job: RunSearch, trial: Trial, deadline: float | None) -> NewJob:
    contract = parse_job(job.job_kind, payload_of(job, trial.params))
    child = ctx.part(contract, job.job_queue)
    metadata = {"search": ctx.job.id, "trial": str(trial.number)}
    expires = datetime.fromtimestamp(deadline, UTC) if deadline is not None else None
    return replace(child, expires_at=expires, metadata=metadata)


def _progress(job: RunSearch, look: Look) -> dict[str, Any]:
    shares, why_none = importance(job, look.trials)
    return {
        "phase": "trials",
        "trials": ends.counts(look.trials),
        "trials_wanted": job.trials,
        "best": ends.best_in_words(job, look.trials),
        "importance": {"shares": shares, "why_none": why_none},
    }


def _registered(ctx: JobContext, job: RunSearch, look: Look) -> Outcome:
    """The end: the best trial's models become the tenant's, or the reasons why there are none."""
    best = best_of(look.trials, job.sign)
    if best is None:
        return _ended(ctx, job, look, Status.FAILED, error=ends.why_nothing(look.trials, look.errors))
    made: list[dict[str, Any]] = look.rows[best.number]["models"]
    if job.name is not None and len(made) == 1:
        made = [{**made[0], "model_id": job.name}]
    made = [{**one, "model_id": _free_name(ctx, one, best)} for one in made]
    lineage = {
        "id": ctx.job.id,
        "trial": best.number,
        "params": dict(best.params),
        "metric": job.metric,
        "value": best.value,
        "trials": ends.counts(look.trials),
    }

    def register(connection: Connection) -> None:
        for one in made:
            kept = {name: value for name, value in one.items() if name != "model_id"}
            kept["info"] = {**one["info"], "search": lineage}
            models.add_model(connection, ctx.job.tenant_id, one["model_id"], **kept)

    names = [one["model_id"] for one in made]
    named = {"model": names[0]} if len(names) == 1 else {"models": names}
    return _ended(ctx, job, look, Status.SUCCEEDED, named=named, register=register)


def _free_name(ctx: JobContext, made: Mapping[str, Any], best: Trial) -> str:
    """What a model is registered as: a name that was taken since it was asked for loses nobody hours of training."""
    name = str(made["model_id"])
    with ctx.transaction() as connection:
        if not models.is_taken(connection, ctx.job.tenant_id, name, made["job_id"]):
            return name
        other = f"{name}-trial-{best.number}-{ctx.job.id[-6:]}"
        message = f"a model {name!r} has come to exist meanwhile; the best one is registered as {other!r}"
        job_store.add_event(connection, ctx.job, "message", message, level="warn")
    return other


def _ended(
    ctx: JobContext,
    job: RunSearch,
    look: Look,
    status: Status,
    *,
    error: dict[str, Any] | None = None,
    named: Mapping[str, Any] | None = None,
    register: Callable[[Connection], None] | None = None,
) -> Outcome:
    def write(connection: Connection) -> None:
        if register is not None:
            register(connection)
        repository.forget_models(connection, ctx.job.id)
        job_store.set_progress(connection, ctx.job, _progress(job, look))

    result = {
        **(named or {}),
        "metric": job.metric,
        "best": ends.best_in_words(job, look.trials),
        "trials": ends.counts(look.trials),
    }
    return Outcome(result=result, status=status, error=error, write=write)
