"""Handlers and how they end, on a real Postgres: fences, unknown commits, stops, crashes. One process, no queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from shared import job_requests, job_store
from shared.bootstrap import create_tenant
from shared.contracts.core import Noop
from shared.db import Connection, Database
from shared.errors import HeliuError, InvalidInput, Unavailable
from shared.job_context import Handler, JobContext, Outcome, Waiting
from shared.job_store import LeaseLost
from shared.jobs import Job, NewJob, Status, new_id
from shared.metrics import Metrics
from shared.runner import JobRunner
from shared.stop import ChildCrashed, Stop, Stopped
from shared.telemetry import Tracing
from tests.harness import wait_for

QUEUE = "q"
LONG_S = 600.0


class LossyDatabase(Database):
    """Loses the reply to the next COMMIT, or the server, when told to, or waits for it until `hung` is set."""

    lose_replies = 0
    away = False
    hung: threading.Event | None = None

    @contextmanager
    def core(self, *, pipelined: bool = False) -> Iterator[Connection]:
        with self._perhaps_lost(), super().core(pipelined=pipelined) as connection:
            yield connection

    @contextmanager
    def transaction(self, tenant: UUID) -> Iterator[Connection]:
        with self._perhaps_lost(), super().transaction(tenant) as connection:
            yield connection

    @contextmanager
    def _perhaps_lost(self) -> Iterator[None]:
        if self.away:
            raise Unavailable("away, says the test")
        if self.hung is not None:
            self.hung.wait(60)
        yield
        if self.lose_replies:
            self.lose_replies -= 1
            raise Unavailable("the reply to COMMIT was lost, says the test")


class Bench:
    """A database, a tenant, and runners that end with the test."""

    def __init__(self, url: str) -> None:
        self.db = LossyDatabase(url, application="test", max_size=8)
        self._runners: list[JobRunner] = []
        with self.db.core() as c:
            self.tenant = create_tenant(c, "acme")

    def runner(
        self, handler: Handler, *, lease_s: float = LONG_S, heartbeat_s: float = LONG_S / 2
    ) -> JobRunner:
        made = JobRunner(
            self.db,
            {Noop: handler},
            worker_id=f"w{len(self._runners)}",
            tracing=Tracing("test"),
            metrics=Metrics(),
            lease_s=lease_s,
            heartbeat_s=heartbeat_s,
        )
        self._runners.append(made)
        return made

    def submit(self, **values: Any) -> Job:
        new = NewJob(
            **{
                "id": new_id("job_"),
                "tenant_id": self.tenant,
                "kind": Noop.kind,
                "queue": QUEUE,
                "payload": {},
                **values,
            }
        )
        with self.db.transaction(self.tenant) as c:
            return job_store.submit(c, new)[0]

    def run(self, handler: Handler, **values: Any) -> Job:
        """Submit one job, run it once, and give it back as it stands then."""
        job = self.submit(**values)
        runner = self.runner(handler)
        context = runner.claim(QUEUE)
        assert context is not None
        runner.run(context)
        return self.job(job.id)

    def job(self, job_id: str) -> Job:
        with self.db.core() as c:
            return job_store.get(c, job_id)

    def events(self, job_id: str) -> list[dict[str, Any]]:
        with self.db.core() as c:
            return job_store.list_events(c, job_id, limit=10_000)

    def types(self, job_id: str) -> list[str]:
        return [event["type"] for event in self.events(job_id)]

    def expire(self, job_id: str) -> None:
        """Let the lease run out, and the reaper see it."""
        with self.db.core() as c:
            c.execute("UPDATE core.job SET lease_until = now() - interval '1 s' WHERE id = %s", (job_id,))
            job_store.reap(c)

    def now(self, job_id: str) -> None:
        """Make a job that backs off claimable."""
        with self.db.core() as c:
            c.execute("UPDATE core.job SET run_at = now() WHERE id = %s", (job_id,))

    def close(self) -> None:
        for runner in self._runners:
            runner.heartbeat._closed.set()
        self.db.close()


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    made = Bench(database_url)
    yield made
    made.close()


def succeed(_: JobContext, __: Any) -> Outcome:
    return Outcome({"answer": 42})


def raising(exc: BaseException) -> Handler:
    def handler(_: JobContext, __: Any) -> Outcome:
        raise exc

    return handler


def until_asked(context: JobContext, _: Any) -> Outcome:
    assert context.asked.wait(60), "nobody asked it to stop"
    context.check()
    raise AssertionError("unreachable")


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_result_ends_the_job_with_one_event_and_its_write_in_the_same_transaction(bench: Bench) -> None:
    def handler(context: JobContext, _: Any) -> Outcome:
        return Outcome(
            {"answer": 42}, write=lambda c: job_store.set_progress(c, context.job, {"written": True})
        )

    job = bench.run(handler)
    assert (job.state, job.result, job.progress) == (Status.SUCCEEDED, {"answer": 42}, {"written": True})
    assert bench.types(job.id) == ["job_queued", "job_started", "job_succeeded"]


def test_an_end_whose_commit_reply_was_lost_is_read_again_and_stands(bench: Bench) -> None:
    def handler(_: JobContext, __: Any) -> Outcome:
        bench.db.lose_replies = 1
        return Outcome()

    job = bench.run(handler)
    assert (job.state, job.epoch, job.attempt) == (Status.SUCCEEDED, 1, 1)
    assert bench.types(job.id).count("job_succeeded") == 1


def test_an_event_whose_commit_reply_was_lost_is_written_once(bench: Bench) -> None:
    def handler(context: JobContext, _: Any) -> Outcome:
        context.event("step", "one")
        bench.db.lose_replies = 2
        context.event("step", "one")
        return Outcome()

    job = bench.run(handler)
    assert bench.types(job.id).count("step") == 2


def test_a_zombie_can_write_neither_event_nor_progress_nor_end(bench: Bench) -> None:
    refused: list[str] = []

    def zombie(context: JobContext, _: Any) -> Outcome:
        bench.expire(context.job.id)
        second = bench.runner(succeed)
        held = second.claim(QUEUE)
        assert held is not None
        assert held.job.epoch == 2
        for write in (lambda: context.event("late", "late"), lambda: context.progress(late=True)):
            with pytest.raises(LeaseLost):
                write()
            refused.append("write")
        second.run(held)
        return Outcome({"from": "zombie"}, write=lambda c: refused.append("it was let in"))

    job = bench.run(zombie)
    assert refused == ["write", "write"]
    assert (job.state, job.result, job.epoch, job.crashes) == (Status.SUCCEEDED, {"answer": 42}, 2, 1)
    assert "late" not in bench.types(job.id)
    assert bench.types(job.id).count("job_succeeded") == 1


def test_an_error_of_the_jobs_own_fails_it_at_once_with_its_code(bench: Bench) -> None:
    job = bench.run(raising(InvalidInput("line 3 is wrong", param="file")))
    assert job.state is Status.FAILED
    assert job.error == {"code": "invalid_value", "message": "line 3 is wrong", "param": "file"}


@pytest.mark.parametrize(
    ("exc", "told"),
    [
        (RuntimeError("SELECT secret"), "unexpected RuntimeError"),
        (HeliuError("busy", retryable=True), "busy"),
    ],
)
def test_what_may_pass_is_tried_again_until_the_attempts_are_used_up(
    bench: Bench, exc: Exception, told: str
) -> None:
    job = bench.run(raising(exc), max_attempts=2)
    assert (job.state, job.attempt) == (Status.QUEUED, 1)
    bench.now(job.id)
    assert bench.runner(raising(exc)).run_queue(QUEUE) == 1
    job = bench.job(job.id)
    assert (job.state, job.attempt, job.crashes) == (Status.DEAD, 2, 0)
    assert job.error is not None
    assert told in job.error["message"]
    assert "SELECT" not in job.error["message"]  # a bug's own text is for the log, not for the tenant


def test_a_dead_child_counts_a_crash_and_no_attempt_and_ends_dead_with_the_reason(bench: Bench) -> None:
    crash = raising(ChildCrashed("killed by SIGKILL"))
    job = bench.run(crash, max_crashes=2)
    assert (job.state, job.attempt, job.crashes) == (Status.QUEUED, 0, 1)
    bench.now(job.id)
    bench.runner(crash).run_queue(QUEUE)
    job = bench.job(job.id)
    assert (job.state, job.crashes) == (Status.DEAD, 2)
    assert job.error is not None
    assert "killed by SIGKILL" in job.error["message"]


def test_a_result_that_postgres_refuses_is_a_failed_attempt_and_no_crash(bench: Bench) -> None:
    job = bench.run(lambda _, __: Outcome({"text": "nul \x00"}))
    assert (job.state, job.attempt, job.crashes) == (Status.QUEUED, 1, 0)
    assert job.error is not None
    assert "could not be stored" in job.error["message"]


def test_a_write_that_is_refused_fails_the_job_with_its_reason_and_leaves_nothing(bench: Bench) -> None:
    def handler(context: JobContext, _: Any) -> Outcome:
        def write(connection: Connection) -> None:
            job_store.set_progress(connection, context.job, {"half": True})
            raise InvalidInput("a model of this name exists")

        return Outcome(write=write)

    job = bench.run(handler)
    assert (job.state, job.progress) == (Status.FAILED, {})
    assert job.error is not None
    assert job.error["message"] == "a model of this name exists"


def test_a_cancel_request_reaches_the_handler_without_waiting_for_a_renewal(bench: Bench) -> None:
    job = bench.submit()
    runner = bench.runner(until_asked)
    thread = in_thread(lambda: runner.run_queue(QUEUE))
    wait_for(lambda: runner.busy, 30, "the claim")
    with bench.db.transaction(bench.tenant) as c:
        job_requests.request_cancel(c, job.id)
    thread.join(30)
    assert bench.job(job.id).state is Status.CANCELLED


def test_a_pause_request_ends_the_attempt_uncharged_and_resume_starts_it_again(bench: Bench) -> None:
    job = bench.submit()
    runner = bench.runner(until_asked)
    thread = in_thread(lambda: runner.run_queue(QUEUE))
    wait_for(lambda: runner.busy, 30, "the claim")
    with bench.db.transaction(bench.tenant) as c:
        job_requests.request_pause(c, job.id)
    runner.heartbeat.renew()
    thread.join(30)
    assert (bench.job(job.id).state, bench.job(job.id).attempt) == (Status.PAUSED, 0)
    with bench.db.transaction(bench.tenant) as c:
        job_requests.resume(c, job.id)
    assert bench.runner(succeed).run_queue(QUEUE) == 1
    assert bench.job(job.id).state is Status.SUCCEEDED


def test_a_job_over_its_time_limit_fails_and_says_so(bench: Bench) -> None:
    job = bench.submit(time_limit_s=0.01)
    bench.runner(until_asked, heartbeat_s=0.01).run_queue(QUEUE)
    job = bench.job(job.id)
    assert job.state is Status.FAILED
    assert job.error is not None
    assert job.error["code"] == "time_limit_exceeded"


def test_a_job_that_lives_and_does_not_move_is_stopped_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Noop, "stall_limit_s", 0.01)
    job = bench.submit()
    runner = bench.runner(until_asked, heartbeat_s=0.01)
    context = runner.claim(QUEUE)
    assert context is not None
    runner.run(context)
    job = bench.job(job.id)
    assert (job.state, job.attempt) == (Status.QUEUED, 1)
    assert job.error is not None
    assert job.error["code"] == "stalled"


@pytest.mark.parametrize("how", ["away", "hung"])
def test_without_a_renewal_the_handler_is_stopped_before_the_lease_ends(bench: Bench, how: str) -> None:
    reasons: list[Stop | None] = []
    back = threading.Event()

    def handler(context: JobContext, _: Any) -> Outcome:
        # A server that refuses is noticed by whoever asks; one that says nothing holds the asking thread up.
        if how == "away":
            bench.db.away = True
        else:
            bench.db.hung = back
        assert context.asked.wait(60)
        reasons.append(context.reason)
        bench.db.away, bench.db.hung = False, None
        back.set()
        raise Stopped(Stop.LOST)

    job = bench.submit()
    bench.runner(handler, lease_s=1.5, heartbeat_s=0.05).run_queue(QUEUE)
    assert reasons == [Stop.LOST]
    assert bench.job(job.id).state is Status.LEASED, "only the reaper may hand it on"


def test_a_drain_gives_back_what_runs_and_claims_no_more(bench: Bench) -> None:
    first = bench.submit()
    second = bench.submit()
    runner = bench.runner(until_asked)
    thread = in_thread(lambda: runner.run_queue(QUEUE))
    wait_for(lambda: runner.busy, 30, "the claim")
    runner.drain()
    thread.join(30)
    assert not thread.is_alive()
    for job in (first, second):
        now = bench.job(job.id)
        assert (now.state, now.attempt, now.crashes) == (Status.QUEUED, 0, 0)
    assert bench.types(second.id) == ["job_queued"]


def test_a_job_that_was_claimed_while_the_drain_began_is_given_back_too(bench: Bench) -> None:
    job = bench.submit()
    runner = bench.runner(until_asked)
    runner.drain()
    context = runner.claim(QUEUE)
    assert context is not None
    runner.run(context)
    assert (bench.job(job.id).state, bench.job(job.id).attempt) == (Status.QUEUED, 0)


def test_a_job_with_parts_comes_back_when_they_have_ended(bench: Bench) -> None:
    def handler(context: JobContext, _: Any) -> Outcome | Waiting:
        if context.job.parent_id is not None or context.job.progress.get("cut"):
            return Outcome({"done": True})
        parts = [
            NewJob(new_id("job_"), bench.tenant, Noop.kind, QUEUE, {}, parent_id=context.job.id)
            for _ in range(3)
        ]
        return Waiting(parts, {"cut": True})

    job = bench.submit()
    assert bench.runner(handler).run_queue(QUEUE) == 5
    done = bench.job(job.id)
    assert (done.state, done.attempt, done.epoch) == (Status.SUCCEEDED, 1, 2)


def test_parts_whose_commit_reply_was_lost_are_not_made_twice(bench: Bench) -> None:
    def handler(context: JobContext, _: Any) -> Outcome | Waiting:
        bench.db.lose_replies = 1
        return Waiting(
            [NewJob(new_id("job_"), bench.tenant, Noop.kind, QUEUE, {}, parent_id=context.job.id)], {}
        )

    job = bench.run(handler)
    assert (job.state, job.blocked_by) == (Status.QUEUED, 1)
    with bench.db.core() as c:
        row = c.execute("SELECT count(*) AS n FROM core.job WHERE parent_id = %s", (job.id,)).fetchone()
    assert row == {"n": 1}


def test_unreadable_payloads_fail_one_after_the_other_however_many(bench: Bench) -> None:
    bad = bench.submit(payload={"seconds": "soon"})
    with bench.db.core() as c:
        c.execute(
            "INSERT INTO core.job (id, tenant_id, kind, queue, payload, max_attempts, max_crashes) "
            "SELECT 'job_bad' || n, tenant_id, kind, queue, payload, 3, 3 FROM core.job, generate_series(1, 300) n"
        )
        c.execute("UPDATE core.lane SET cap = 1000")
    good = bench.submit(priority=-1)
    assert bench.runner(succeed).run_queue(QUEUE) == 1
    assert bench.job(good.id).state is Status.SUCCEEDED
    assert bench.job(bad.id).state is Status.FAILED
    error = bench.job(bad.id).error
    assert error is not None
    assert "seconds" in error["message"]


def test_a_kind_without_a_handler_here_fails_and_names_the_worker(bench: Bench) -> None:
    job = bench.submit()
    runner = JobRunner(
        bench.db,
        {},
        worker_id="narrow",
        tracing=Tracing("test"),
        metrics=Metrics(),
        lease_s=LONG_S,
        heartbeat_s=LONG_S / 2,
    )
    runner.run_queue(QUEUE)
    runner.close()
    error = bench.job(job.id).error
    assert error is not None
    assert error["code"] == "no_handler"
    assert "narrow" in error["message"]


def test_renewing_moves_the_lease_of_what_is_held_alone(bench: Bench) -> None:
    held, other = bench.submit(), bench.submit()
    runner, stranger = bench.runner(succeed), bench.runner(succeed)
    assert runner.claim(QUEUE) is not None
    assert stranger.claim(QUEUE) is not None
    with bench.db.core() as c:
        c.execute("UPDATE core.job SET lease_until = now() + interval '1 s'")
    runner.heartbeat.renew()
    mine, others = bench.job(held.id).lease_until, bench.job(other.id).lease_until
    assert mine is not None
    assert others is not None
    assert mine - others > timedelta(seconds=LONG_S / 2)
