"""A search's coordinator that dies, or is told nothing, at the points that matter: no trial is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.training.repository import searches as repository
from services.training.tasks.searches import search
from shared import job_store
from shared.contracts.searches import RunSearch
from shared.contracts.training import Pretrain
from shared.db import Row
from shared.job_context import JobContext, Outcome
from shared.jobs import Job, NewJob, Status, new_id
from shared.metrics import Metrics
from shared.runner import JobRunner
from shared.telemetry import Tracing
from shared.worker import Platform
from tests.integration.test_runner import Bench

RATE = "hyperparameters.learning_rate"
QUEUE = "training.default"
DATA = {"id": "dsv-1", "kind": "version", "artifact": "sha256:" + "a" * 64}


class Searches(Bench):
    """A bench whose runner coordinates; trials are claimed and ended by hand."""

    def coordinator(self) -> JobRunner:
        platform = cast(Platform, SimpleNamespace(db=self.db))
        made = JobRunner(
            self.db,
            {RunSearch: partial(search, platform)},
            worker_id=f"w{len(self._runners)}",
            tracing=Tracing("test"),
            metrics=Metrics(),
            lease_s=600,
            heartbeat_s=300,
        )
        self._runners.append(made)
        return made

    def begin(self, **values: Any) -> Job:
        contract = RunSearch.model_validate(
            {
                "asked": {"type": "pretrain"},
                "job_kind": Pretrain.kind,
                "job_queue": QUEUE,
                "job": Pretrain.model_validate({"name": "n", "data": DATA}).dump(),
                "space": [
                    {
                        "path": RATE,
                        "range": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
                        "place": RATE,
                    }
                ],
                "metric": "valid_loss",
                "direction": "minimize",
                "trials": 5,
                "parallel": 2,
                **values,
            }
        )
        new = NewJob(
            id=new_id(RunSearch.id_prefix),
            tenant_id=self.tenant,
            kind=RunSearch.kind,
            queue=RunSearch.queue,
            payload=contract.dump(),
            max_crashes=RunSearch.max_crashes,
            priority=-3,
            preemptible=True,
        )
        with self.db.transaction(self.tenant) as c:
            return job_store.submit(c, new)[0]

    def look(self, runner: JobRunner) -> JobContext:
        context = runner.claim(RunSearch.queue)
        assert context is not None
        return context

    def visit(self, runner: JobRunner) -> None:
        runner.run(self.look(runner))

    def trials(self, job: Job) -> list[Row]:
        with self.db.transaction(self.tenant) as c:
            return repository.trials(c, job.id)

    def jobs(self, job: Job) -> list[Job]:
        with self.db.core() as c:
            found = job_store.list_jobs(c, self.tenant, kinds=[Pretrain.kind], parts=True, limit=100)[0]
        return [one for one in found if one.parent_id == job.id]

    def end_one(self, job: Job, state: Status = Status.SUCCEEDED, value: float = 1.0) -> None:
        """What a trial's worker does: settle and end in one transaction."""
        runner = JobRunner(
            self.db,
            {Pretrain: lambda ctx, _: self._ended(ctx, job, state, value)},
            worker_id="trainer",
            tracing=Tracing("test"),
            metrics=Metrics(),
            lease_s=600,
            heartbeat_s=300,
        )
        self._runners.append(runner)
        context = runner.claim(QUEUE)
        assert context is not None
        runner.run(context)

    def _ended(self, ctx: JobContext, job: Job, state: Status, value: float) -> Outcome:
        with ctx.transaction() as c:
            row = repository.trial_of(c, ctx.job.id)
        assert row is not None
        model = {
            "model_id": "n",
            "artifact": "sha256:" + "b" * 64,
            "job_id": ctx.job.id,
            "dataset_version": "dsv-1",
            "info": {},
        }
        if state is not Status.SUCCEEDED:
            return Outcome(status=state, error={"code": "training_diverged", "message": "nan"})
        return Outcome(
            write=lambda c: cast(
                None, repository.settle(c, job.id, row["number"], "complete", value=value, models=[model])
            )
        )


@pytest.fixture
def bench(database_url: str) -> Iterator[Searches]:
    bench = Searches(database_url)
    yield bench
    bench.close()


def test_a_coordinator_that_dies_before_it_hands_out_proposes_the_same_again(bench: Searches) -> None:
    job = bench.begin()
    runner = bench.coordinator()
    lost = bench.look(runner)
    waiting: Any = search(cast(Platform, SimpleNamespace(db=bench.db)), lost, cast(RunSearch, lost.contract))
    proposed = [one.payload["hyperparameters"]["learning_rate"] for one in waiting.children]
    assert (len(proposed), bench.trials(job)) == (2, [])
    bench.expire(job.id)
    bench.visit(bench.coordinator())
    assert [row["params"][RATE] for row in bench.trials(job)] == proposed
    # The one that was thought dead finds that it is.
    runner.run(lost)
    assert len(bench.trials(job)) == len(bench.jobs(job)) == 2


def test_trials_are_handed_out_once_though_the_reply_to_the_commit_was_lost(bench: Searches) -> None:
    job = bench.begin()
    runner = bench.coordinator()
    context = bench.look(runner)
    original = runner._ends.write

    def lossy(*arguments: Any, **named: Any) -> Job:
        bench.db.lose_replies = 1
        return original(*arguments, **named)

    runner._ends.write = lossy  # type: ignore[method-assign]
    runner.run(context)
    assert bench.db.lose_replies == 0
    assert len(bench.trials(job)) == len(bench.jobs(job)) == 2
    assert bench.job(job.id).blocked_by == 1


def test_every_end_brings_one_trial_more_until_all_are_told_of_once(bench: Searches) -> None:
    job = bench.begin()
    runner = bench.coordinator()
    bench.visit(runner)
    for ended in range(1, 6):
        bench.end_one(job, value=float(ended))
        bench.visit(runner)
        assert len(bench.trials(job)) == min(5, 2 + ended)
    found = bench.job(job.id)
    assert (found.state, found.attempt) == (Status.SUCCEEDED, 1)
    assert found.result is not None
    assert (found.result["best"]["value"], found.result["model"]) == (1.0, "n")
    assert bench.types(job.id).count("trial_ended") == 5


def test_ends_that_come_while_the_coordinator_is_away_are_all_seen_at_its_next_look(bench: Searches) -> None:
    job = bench.begin()
    bench.visit(bench.coordinator())
    bench.end_one(job, Status.FAILED)
    bench.end_one(job)
    runner = bench.coordinator()
    bench.visit(runner)
    rows = bench.trials(job)
    # Which of two trials that are handed out together starts first is nobody's business.
    assert sorted(row["state"] for row in rows[:2]) == ["complete", "failed"]
    assert [row["state"] for row in rows[2:]] == ["open", "open"]
    assert [row["error"]["code"] for row in rows if row["error"]] == ["training_diverged"]
    assert runner.claim(RunSearch.queue) is None


def test_a_model_whose_name_was_taken_meanwhile_gets_another(bench: Searches) -> None:
    job = bench.begin(trials=1)
    runner = bench.coordinator()
    bench.visit(runner)
    bench.end_one(job)
    with bench.db.transaction(bench.tenant) as c:
        c.execute(
            "INSERT INTO training.model (tenant_id, id, kind, artifact) VALUES (%s, 'n', 'base', 'sha256:x')",
            (bench.tenant,),
        )
    bench.visit(runner)
    found = bench.job(job.id)
    assert found.result is not None
    assert (found.state, found.result["model"]) == (Status.SUCCEEDED, f"n-trial-0-{job.id[-6:]}")
    with bench.db.transaction(bench.tenant) as c:
        names = {row["id"] for row in c.execute("SELECT id FROM training.model").fetchall()}
    assert names == {"n", found.result["model"]}


def test_a_trial_that_its_search_has_settled_settles_nothing_more(bench: Searches) -> None:
    job = bench.begin(trials=1)
    runner = bench.coordinator()
    bench.visit(runner)
    with bench.db.transaction(bench.tenant) as c:
        assert repository.settle(c, job.id, 0, "cancelled")
        assert not repository.settle(c, job.id, 0, "complete", value=1.0)
    assert bench.trials(job)[0]["state"] == "cancelled"


def test_trials_have_the_priority_of_their_search_and_give_way_like_it(bench: Searches) -> None:
    job = bench.begin()
    bench.visit(bench.coordinator())
    trials = bench.jobs(job)
    assert {one.priority for one in trials} == {-3}
    assert {one.metadata["search"] for one in trials} == {job.id}
    with bench.db.core() as c:
        rows = c.execute("SELECT job_id FROM core.preemptible").fetchall()
    assert {row["job_id"] for row in rows} == {job.id, *(one.id for one in trials)}
