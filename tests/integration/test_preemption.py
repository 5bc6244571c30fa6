"""Jobs that give way and come back, on a real Postgres: places, charges, peaks, priorities, several dispatchers."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from services.dispatcher.preempt import Preemptor, Thresholds
from services.dispatcher.preemption_repository import is_under_way
from shared import job_requests, job_store, preemption
from shared.bootstrap import create_tenant
from shared.contracts.core import Noop
from shared.contracts.training import LIGHT_QUEUE
from shared.db import Database
from shared.errors import Unavailable
from shared.job_context import JobContext, Outcome
from shared.jobs import Job, NewJob, Status, new_id
from shared.metrics import Metrics
from shared.runner import JobRunner
from shared.settings import PreemptRule
from shared.stop import Stopped
from shared.telemetry import Tracing
from tests import servers
from tests.conftest import TEMPLATE

QUEUE = "training.default"
RULE = PreemptRule(QUEUE, "inference.default")
LEASE = timedelta(seconds=600)
# Every look counts at once: what takes time is tested with looks alone.
AT_ONCE = Thresholds(waiting=3, seconds=0.0, calm_seconds=0.0)


class Line:
    """As many live requests wait as the test says; None is a Redis that is away."""

    def __init__(self) -> None:
        self.waiting: int | None = 0
        self.asked: set[str] = set()

    def backlog(self, queue: str) -> int:
        self.asked.add(queue)
        if self.waiting is None:
            raise Unavailable("away, says the test")
        return self.waiting


class Bench:
    """Jobs of one queue and dispatchers that look when the test says."""

    def __init__(self, url: str) -> None:
        self.db = Database(url, application="test", max_size=12)
        self.line = Line()
        with self.db.core() as c:
            self.tenants = {name: create_tenant(c, name) for name in ("acme", "rival")}
        self.hear("{inference.default.live,inference.default.qwen.live,inference.default.batch,data.live}")

    def hear(self, queues: str) -> None:
        """A worker of inference that lives hears these queues, and none other."""
        with self.db.core() as c:
            c.execute("DELETE FROM core.worker")
            c.execute(
                "INSERT INTO core.worker (id, name, service, pool, queues, host, pid, slots) "
                "VALUES ('i', 'i', 'inference', 'default', %s, 'h', 1, 1)",
                (queues,),
            )

    def submit(self, *, preemptible: bool = True, tenant: str = "acme", **values: Any) -> Job:
        new = NewJob(
            **{
                "id": new_id("job_"),
                "tenant_id": self.tenants[tenant],
                "kind": "noop",
                "queue": QUEUE,
                "payload": {},
                "preemptible": preemptible,
                **values,
            }
        )
        with self.db.transaction(new.tenant_id) as c:
            return job_store.submit(c, new)[0]

    def claim(self, worker: str = "w") -> Job | None:
        with self.db.core() as c:
            return job_store.claim(c, QUEUE, worker, LEASE)

    def running(self, **values: Any) -> Job:
        submitted = self.submit(**values)
        claimed = self.claim()
        assert claimed is not None
        assert claimed.id == submitted.id
        return claimed

    def job(self, job: Job) -> Job:
        with self.db.core() as c:
            return job_store.get(c, job.id)

    def events(self, job: Job) -> list[str]:
        with self.db.core() as c:
            return [event["type"] for event in job_store.list_events(c, job.id)]

    def asked(self, job: Job) -> bool:
        with self.db.core() as c:
            return any(told.preempt for told in job_store.requested(c, [(job.id, job.epoch)]))

    def give_way(self, job: Job) -> Job:
        with self.db.core() as c:
            return preemption.give_way(c, job)

    def end(self, job: Job) -> None:
        with self.db.core() as c:
            job_store.leave(c, job, Status.SUCCEEDED, message="done")

    def dispatcher(self, *rules: PreemptRule, thresholds: Thresholds = AT_ONCE) -> Preemptor:
        return Preemptor(self.db, self.line, rules, thresholds, no_worker_s=0.0)


@pytest.fixture(scope="module")
def module_url(postgres: servers.RunningServer) -> Iterator[str]:
    """One database for all tests of this file, which each find it empty."""
    name = f"test_{secrets.token_hex(6)}"
    yield servers.new_database(postgres.url, name, template=TEMPLATE)
    servers.drop_database(postgres.url, name)


@pytest.fixture
def bench(module_url: str) -> Iterator[Bench]:
    made = Bench(module_url)
    yield made
    with made.db.core() as c:
        for table in ("worker", "job_event", "preemptible", "dependency", "job", "lane"):
            c.execute(f"DELETE FROM core.{table}")
    made.db.close()


def test_a_job_that_is_asked_stops_keeps_its_place_and_is_charged_nothing(bench: Bench) -> None:
    """Through the runner that every worker has, with a handler that stops at its next step."""
    bench.submit(preemptible=False, priority=-1)
    job = bench.submit()
    started = threading.Event()

    def handler(ctx: JobContext, _: Noop) -> Outcome:
        started.set()
        assert ctx.asked.wait(30)
        assert ctx.reason is not None
        raise Stopped(ctx.reason)

    runner = JobRunner(
        bench.db,
        {Noop: handler},
        worker_id="w0",
        tracing=Tracing("test"),
        metrics=Metrics(),
        lease_s=600,
        heartbeat_s=300,
    )
    context = runner.claim(QUEUE)
    assert context is not None
    assert context.job.id == job.id
    worker = threading.Thread(target=runner.run, args=(context,))
    worker.start()
    assert started.wait(30)
    bench.line.waiting = 3
    assert bench.dispatcher(RULE).look() == [job.id]
    runner.heartbeat.hear_requests()
    worker.join(30)
    runner.close()
    left = bench.job(job)
    assert (left.state, left.blocked_by, left.worker_id) == (Status.QUEUED, 1, None)
    assert (left.attempt, left.crashes, left.run_at) == (0, 0, job.run_at)
    assert left.progress == {"held": "live requests wait on inference.default", "preempted": 1}
    assert bench.events(job)[-3:] == ["preempt_requested", "job_preempted", "job_requeued"]


def test_a_held_job_starts_again_only_when_the_peak_is_over_and_before_those_behind_it(bench: Bench) -> None:
    first = bench.running()
    behind = bench.submit(preemptible=False)
    dispatcher = bench.dispatcher(RULE)
    bench.line.waiting = 9
    assert dispatcher.look() == [first.id]
    bench.give_way(first)
    # Fewer than make a peak, but not none: it goes on.
    bench.line.waiting = 1
    assert dispatcher.look() == []
    assert bench.job(first).blocked_by == 1
    bench.line.waiting = 0
    dispatcher.look()
    back = bench.job(first)
    assert (back.blocked_by, "held" in back.progress) == (0, False)
    assert bench.events(first)[-1] == "job_let_go"
    again = bench.claim()
    assert again is not None
    assert (again.id, again.epoch, again.attempt) == (first.id, 2, 1)
    assert not bench.asked(again)
    other = bench.claim()
    assert other is not None
    assert other.id == behind.id


def test_one_job_is_asked_at_a_time_the_least_wanted_first(bench: Bench) -> None:
    high = bench.running(priority=5)
    low, kept = bench.running(priority=-5), bench.running(preemptible=False)
    bench.line.waiting = 3
    dispatcher = bench.dispatcher(RULE)
    assert dispatcher.look() == [low.id]
    assert dispatcher.look() == []
    bench.give_way(low)
    assert dispatcher.look() == [high.id]
    bench.give_way(high)
    assert dispatcher.look() == []
    assert not bench.asked(kept)


def test_what_has_just_given_way_gets_its_time_to_help(bench: Bench) -> None:
    job = bench.running()
    bench.line.waiting = 3
    bench.dispatcher(RULE).look()
    bench.give_way(job)
    with bench.db.core() as c:
        under_way = [is_under_way(c, QUEUE, f"peak {RULE}", settle) for settle in (3600.0, 0.0, None)]
    assert under_way == [True, False, True]


def test_jobs_that_may_be_preempted_do_not_start_during_a_peak_and_others_do(bench: Bench) -> None:
    held, other = bench.submit(priority=9), bench.submit(preemptible=False)
    dispatcher = bench.dispatcher(RULE)
    bench.line.waiting = 3
    dispatcher.look()
    claimed = bench.claim()
    assert claimed is not None
    assert claimed.id == other.id
    assert bench.claim() is None
    assert bench.events(held)[-1] == "job_held"
    bench.line.waiting = 0
    dispatcher.look()
    started = bench.claim()
    assert started is not None
    assert started.id == held.id


def test_several_dispatchers_ask_once(bench: Bench) -> None:
    jobs = [bench.running(), bench.running()]
    bench.line.waiting = 3
    dispatchers = [bench.dispatcher(RULE) for _ in range(4)]
    asked: list[str] = []
    ready = threading.Barrier(4)

    def look(dispatcher: Preemptor) -> None:
        ready.wait(30)
        for _ in range(5):
            asked.extend(dispatcher.look())

    threads = [threading.Thread(target=look, args=(one,)) for one in dispatchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(asked) == 1
    assert [bench.events(job).count("preempt_requested") for job in jobs].count(1) == 1


def test_a_request_does_not_outlive_the_lease_that_it_was_for(bench: Bench) -> None:
    job = bench.running()
    bench.line.waiting = 3
    bench.dispatcher(RULE).look()
    assert bench.asked(job)
    with bench.db.core() as c:
        job_store.leave_crashed(c, job, "its worker died")
    again = bench.claim()
    assert again is not None
    assert again.id == job.id
    assert not bench.asked(again)


def test_a_rule_that_is_not_set_any_more_holds_nothing(bench: Bench) -> None:
    job = bench.running()
    bench.line.waiting = 3
    bench.dispatcher(RULE).look()
    bench.give_way(job)
    bench.dispatcher().look()
    assert bench.job(job).blocked_by == 0


def test_a_redis_that_is_away_is_neither_peak_nor_calm(bench: Bench) -> None:
    job = bench.running()
    dispatcher = bench.dispatcher(RULE)
    bench.line.waiting = None
    assert dispatcher.look() == []
    bench.line.waiting = 3
    dispatcher.look()
    bench.give_way(job)
    bench.line.waiting = None
    dispatcher.look()
    assert bench.job(job).blocked_by == 1


def test_only_live_lines_that_somebody_hears_count(bench: Bench) -> None:
    bench.dispatcher(RULE).look()
    assert bench.line.asked == {"inference.default.live", "inference.default.qwen.live"}
    bench.hear("{inference.other.live,inference.default.batch}")
    bench.line.waiting = 99
    bench.running()
    assert bench.dispatcher(RULE).look() == []


@pytest.mark.parametrize("verb", [job_requests.request_pause, job_requests.request_cancel])
def test_a_held_job_is_paused_and_cancelled_like_any(bench: Bench, verb: Any) -> None:
    job = bench.running()
    bench.line.waiting = 3
    dispatcher = bench.dispatcher(RULE)
    dispatcher.look()
    bench.give_way(job)
    with bench.db.transaction(job.tenant_id) as c:
        assert verb(c, job.id).state in (Status.PAUSED, Status.CANCELLED)
    bench.line.waiting = 0
    dispatcher.look()
    if bench.job(job).state is Status.PAUSED:
        with bench.db.transaction(job.tenant_id) as c:
            job_requests.resume(c, job.id)
        again = bench.claim()
        assert again is not None
        assert again.id == job.id


def test_a_cancel_that_came_before_it_had_stopped_ends_it(bench: Bench) -> None:
    job = bench.running()
    bench.line.waiting = 3
    bench.dispatcher(RULE).look()
    with bench.db.transaction(job.tenant_id) as c:
        job_requests.request_cancel(c, job.id)
    assert bench.give_way(job).state is Status.CANCELLED


def test_a_job_gives_way_to_one_of_its_tenant_with_a_higher_priority_until_that_starts(bench: Bench) -> None:
    low = bench.running(priority=-1)
    urgent = bench.submit(preemptible=False, priority=10)
    dispatcher = bench.dispatcher()
    assert dispatcher.look() == [low.id]
    assert dispatcher.look() == []
    bench.give_way(low)
    assert bench.job(low).progress["held"] == f"{urgent.id} has priority 10"
    dispatcher.look()
    assert bench.job(low).blocked_by == 1
    started = bench.claim()
    assert started is not None
    assert started.id == urgent.id
    dispatcher.look()
    assert bench.job(low).blocked_by == 0


@pytest.mark.parametrize(
    ("runs", "waits"),
    [
        ({"preemptible": False, "priority": -1}, {"priority": 10}),
        ({"priority": 3}, {"priority": 3}),
        ({"priority": -1}, {"priority": 10, "tenant": "rival"}),
        ({"priority": -1}, {"priority": 10, "queue": "training.other"}),
    ],
    ids=["not preemptible", "as urgent", "another tenant's", "of another pool"],
)
def test_nobody_else_gives_way(bench: Bench, runs: dict[str, Any], waits: dict[str, Any]) -> None:
    bench.running(**runs)
    bench.submit(**waits)
    dispatcher = bench.dispatcher()
    assert [dispatcher.look(), dispatcher.look()] == [[], []]


def test_a_job_that_a_free_worker_is_about_to_take_makes_nobody_give_way(bench: Bench) -> None:
    bench.running(priority=-1)
    bench.submit(priority=10)
    patient = Preemptor(bench.db, bench.line, [], AT_ONCE, no_worker_s=3600.0)
    assert [patient.look(), patient.look()] == [[], []]


def test_one_that_waits_makes_one_give_way_whatever_becomes_of_the_place(bench: Bench) -> None:
    low, lower = bench.running(priority=-1), bench.running(priority=-2)
    bench.submit(priority=10)
    dispatcher = bench.dispatcher()
    assert dispatcher.look() == [lower.id]
    bench.give_way(lower)
    assert dispatcher.look() == []
    assert not bench.asked(low)


def test_jobs_that_only_plan_are_left_alone(bench: Bench) -> None:
    planner = bench.submit(queue=LIGHT_QUEUE)
    with bench.db.core() as c:
        job_store.claim(c, LIGHT_QUEUE, "w", LEASE)
    bench.submit(queue=LIGHT_QUEUE, priority=10, preemptible=False)
    dispatcher = bench.dispatcher()
    assert [dispatcher.look(), dispatcher.look()] == [[], []]
    assert bench.job(planner).state is Status.LEASED


def test_parts_of_what_may_be_preempted_may_be_too(bench: Bench) -> None:
    parents = [bench.submit(queue=LIGHT_QUEUE), bench.submit(queue=LIGHT_QUEUE, preemptible=False)]
    parts = [bench.submit(preemptible=False, parent_id=parent.id) for parent in parents]
    with bench.db.core() as c:
        rows = c.execute("SELECT job_id FROM core.preemptible").fetchall()
    assert {row["job_id"] for row in rows} == {parents[0].id, parts[0].id}


def test_a_tenant_sees_only_its_own(bench: Bench) -> None:
    job = bench.submit()
    seen: dict[str, list[UUID]] = {}
    for name, tenant in bench.tenants.items():
        with bench.db.transaction(tenant) as c:
            seen[name] = [
                row["job_id"] for row in c.execute("SELECT job_id FROM core.preemptible").fetchall()
            ]
    assert seen == {"acme": [job.id], "rival": []}
