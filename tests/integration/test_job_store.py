"""The job core's SQL on a real Postgres: claims, lanes, fences, dependencies, ends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from shared import job_requests, job_store
from shared.bootstrap import create_tenant
from shared.db import Database
from shared.errors import Conflict, InvalidInput, NotFound
from shared.job_store import LeaseLost
from shared.jobs import Job, NewJob, Status, new_id
from tests.harness import wait_for

LEASE = timedelta(seconds=60)


class Core:
    """A database with helpers that fill what a test does not care about."""

    def __init__(self, url: str) -> None:
        self.db = Database(url, application="test", max_size=16)
        self.tenant = self.new_tenant("acme")

    def new_tenant(self, name: str, *, cap: int = 100, weight: float = 1.0) -> UUID:
        with self.db.core() as c:
            tenant = create_tenant(c, name)
            c.execute(
                "UPDATE core.tenant SET max_running = %s, weight = %s WHERE id = %s", (cap, weight, tenant)
            )
        return tenant

    def submit(self, **values: Any) -> Job:
        return self.submit_new(**values)[0]

    def submit_new(self, **values: Any) -> tuple[Job, bool]:
        new = self.new(**values)
        with self.db.transaction(new.tenant_id) as c:
            return job_store.submit(c, new)

    def retried(self, api_key_id: str | None, body_hash: bytes, tenant: UUID | None = None) -> Job | None:
        """What a request that its client marks as a retry finds."""
        with self.db.transaction(tenant or self.tenant) as c:
            return job_store.submitted_before(
                c,
                tenant or self.tenant,
                api_key_id=api_key_id,
                body_hash=body_hash,
                idempotency_key=None,
                retried=True,
            )

    def new(self, **values: Any) -> NewJob:
        base: dict[str, Any] = {
            "id": new_id("job_"),
            "tenant_id": self.tenant,
            "kind": "noop",
            "queue": "q",
            "payload": {},
        }
        return NewJob(**{**base, **values})

    def claim(self, queue: str = "q", lease: timedelta = LEASE) -> Job | None:
        with self.db.core() as c:
            return job_store.claim(c, queue, "w", lease)

    def held(self, **values: Any) -> Job:
        self.submit(**values)
        job = self.claim()
        assert job is not None
        return job

    def leave(self, job: Job, target: Status, **values: Any) -> Job:
        with self.db.core() as c:
            return job_store.leave(c, job, target, message="left", **values)

    def get(self, job: Job) -> Job:
        with self.db.core() as c:
            return job_store.get(c, job.id)

    def waiting_for_locks(self) -> int:
        with self.db.core() as c:
            row = c.execute(
                "SELECT count(*)::int AS n FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
                "WHERE NOT l.granted AND a.datname = current_database()"
            ).fetchone()
        assert row is not None
        return int(row["n"])

    def running(self, tenant: UUID | None = None) -> int:
        with self.db.core() as c:
            row = c.execute(
                "SELECT running FROM core.lane WHERE queue = 'q' AND tenant_id = %s", (tenant or self.tenant,)
            ).fetchone()
        assert row is not None
        return int(row["running"])


@pytest.fixture
def core(database_url: str) -> Iterator[Core]:
    core = Core(database_url)
    yield core
    core.db.close()


def test_a_claim_takes_priority_first_then_age(core: Core) -> None:
    first, second, urgent = core.submit(), core.submit(), core.submit(priority=5)
    assert [core.claim().id for _ in range(3)] == [urgent.id, first.id, second.id]  # type: ignore[union-attr]
    assert core.claim() is None


def test_racing_claimers_never_share_a_job_and_leave_none(core: Core) -> None:
    wanted = {core.submit().id for _ in range(200)}
    taken: list[str] = []

    def work() -> None:
        while (job := core.claim()) is not None:
            taken.append(job.id)
            core.leave(job, Status.SUCCEEDED)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(taken).most_common(1)[0][1] == 1
    assert set(taken) == wanted


def test_a_cap_is_exact_under_racing_claimers(core: Core) -> None:
    small = core.new_tenant("small", cap=4)
    for _ in range(50):
        core.submit(tenant_id=small)
    taken: list[Job] = []

    def work() -> None:
        while (job := core.claim()) is not None:
            taken.append(job)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 4
    assert core.running(small) == 4


def test_tenants_take_turns_by_weight(core: Core) -> None:
    heavy, light = core.new_tenant("heavy", weight=3), core.new_tenant("light", weight=1)
    for _ in range(40):
        core.submit(tenant_id=heavy)
        core.submit(tenant_id=light)
    first = Counter(core.claim().tenant_id for _ in range(40))  # type: ignore[union-attr]
    assert first[heavy] == pytest.approx(30, abs=2)
    assert first[light] == pytest.approx(10, abs=2)


def test_a_lane_that_wakes_from_idle_cannot_hoard(core: Core) -> None:
    late = core.new_tenant("late")
    for _ in range(30):
        core.submit()
    for _ in range(20):
        core.claim()
    for _ in range(20):
        core.submit(tenant_id=late)
    turns = [core.claim().tenant_id for _ in range(10)]  # type: ignore[union-attr]
    assert 4 <= turns.count(late) <= 6


def test_a_newcomer_to_a_queue_that_was_idle_does_not_go_before_who_has_worked_there_for_long(
    core: Core,
) -> None:
    for _ in range(40):
        core.leave(core.held(), Status.SUCCEEDED)
    newcomer = core.new_tenant("newcomer")
    for _ in range(30):
        core.submit(tenant_id=newcomer)
    core.claim()
    for _ in range(10):
        core.submit()
    turns = [core.claim().tenant_id for _ in range(10)]  # type: ignore[union-attr]
    assert 4 <= turns.count(newcomer) <= 6


def test_a_lane_that_is_held_at_its_cap_draws_no_newcomer_back_to_itself(core: Core) -> None:
    capped, newcomer = core.new_tenant("capped", cap=1), core.new_tenant("newcomer")
    core.held(tenant_id=capped)
    core.submit(tenant_id=capped)
    for _ in range(60):
        core.submit()
    for _ in range(40):
        core.claim()
    for _ in range(30):
        core.submit(tenant_id=newcomer)
    turns = [core.claim().tenant_id for _ in range(10)]  # type: ignore[union-attr]
    assert 4 <= turns.count(newcomer) <= 6


def test_a_job_in_the_future_is_not_claimed(core: Core) -> None:
    core.submit(run_at=datetime.now(UTC) + timedelta(hours=1))
    assert core.claim() is None


def test_an_end_gives_the_place_back_and_writes_one_event(core: Core) -> None:
    job = core.held()
    assert core.running() == 1
    core.leave(job, Status.SUCCEEDED, result={"answer": 1})
    assert core.running() == 0
    with core.db.core() as c:
        types = [e["type"] for e in job_store.list_events(c, job.id)]
    assert types == ["job_queued", "job_started", "job_succeeded"]


def test_a_zombie_cannot_end_or_write_what_is_no_longer_its_job(core: Core) -> None:
    zombie = core.held()
    with core.db.core() as c:
        c.execute("UPDATE core.job SET lease_until = now() - interval '1 second' WHERE id = %s", (zombie.id,))
    with core.db.core() as c:
        assert [j.state for j in job_store.reap(c)] == [Status.QUEUED]
    heir = core.claim()
    assert heir is not None
    assert heir.epoch == zombie.epoch + 1
    with pytest.raises(LeaseLost):
        core.leave(zombie, Status.SUCCEEDED)
    with pytest.raises(LeaseLost), core.db.core() as c:
        job_store.fence(c, zombie.id, zombie.epoch)
    core.leave(heir, Status.SUCCEEDED)
    assert core.running() == 0


def test_crashes_are_counted_apart_from_attempts_and_end_in_dead(core: Core) -> None:
    job = core.held(max_crashes=2, max_attempts=1)
    with core.db.core() as c:
        left = job_store.leave_crashed(c, job, "killed")
    assert (left.state, left.crashes, left.attempt) == (Status.QUEUED, 1, 0)
    again = core.claim()
    assert again is not None
    with core.db.core() as c:
        dead = job_store.leave_crashed(c, again, "killed")
    assert (dead.state, dead.error["code"]) == (Status.DEAD, "crashed")  # type: ignore[index]
    with core.db.core() as c:
        assert job_requests.replay(c, job.id).state is Status.QUEUED
    revived = core.claim()
    assert revived is not None
    assert (revived.attempt, revived.crashes) == (1, 0)


def test_an_expired_lease_with_a_cancel_request_ends_cancelled(core: Core) -> None:
    job = core.held()
    with core.db.core() as c:
        assert job_requests.request_cancel(c, job.id).state is Status.LEASED
        c.execute("UPDATE core.job SET lease_until = now() - interval '1 second' WHERE id = %s", (job.id,))
    with core.db.core() as c:
        assert [j.state for j in job_store.reap(c)] == [Status.CANCELLED]


def test_a_job_that_is_given_back_obeys_a_cancel_or_pause_that_its_handler_did_not_hear(core: Core) -> None:
    for ask, state in (
        (job_requests.request_cancel, Status.CANCELLED),
        (job_requests.request_pause, Status.PAUSED),
    ):
        job = core.held()
        with core.db.core() as c:
            assert ask(c, job.id).state is Status.LEASED
        assert core.leave(job, Status.QUEUED, charged=False).state is state
        assert core.running() == 0
    assert core.claim() is None


def test_a_cancelled_job_with_parts_puts_together_what_there_is_though_its_worker_was_lost(
    core: Core,
) -> None:
    job = core.held()
    with core.db.core() as c:
        job_store.set_progress(c, job, {"finalize_on_cancel": True})
        job_requests.request_cancel(c, job.id)
        c.execute("UPDATE core.job SET lease_until = now() - interval '1 second' WHERE id = %s", (job.id,))
    with core.db.core() as c:
        assert [j.state for j in job_store.reap(c)] == [Status.QUEUED]
    again = core.claim()
    assert again is not None
    assert again.cancel_requested_at is not None


def parts_of(core: Core, whole: Job, count: int = 3) -> list[NewJob]:
    return [
        NewJob(new_id("part_"), core.tenant, "noop", "q", {}, parent_id=whole.id, priority=9)
        for _ in range(count)
    ]


def test_a_job_that_is_cancelled_before_it_hands_out_its_parts_hands_out_none(core: Core) -> None:
    job = core.held()
    with core.db.core() as c:
        job_requests.request_cancel(c, job.id)
    with core.db.core() as c:
        assert job_store.wait_for_children(c, job, parts_of(core, job), {}).state is Status.CANCELLED
    assert core.claim() is None
    assert core.running() == 0


def test_a_cancel_that_meets_a_job_handing_out_its_parts_cancels_them_too(core: Core) -> None:
    job = core.held()
    parts = parts_of(core, job)

    def cancel() -> None:
        with core.db.core() as c:
            job_requests.request_cancel(c, job.id)

    thread = threading.Thread(target=cancel)
    with core.db.core() as c:
        job_store.wait_for_children(c, job, parts, {"finalize_on_cancel": True})
        thread.start()
        wait_for(lambda: core.waiting_for_locks() == 1, 60, "the cancel to meet the row")
    thread.join(60)
    with core.db.core() as c:
        assert {job_store.get(c, part.id).state for part in parts} == {Status.CANCELLED}
    whole = core.claim()
    assert whole is not None
    assert whole.id == job.id
    assert whole.cancel_requested_at is not None


def test_a_cancel_reaches_what_the_parts_of_a_job_have_handed_out(core: Core) -> None:
    job = core.held()
    with core.db.core() as c:
        job_store.wait_for_children(c, job, parts_of(core, job)[:1], {})
    part = core.claim()
    assert part is not None
    below = parts_of(core, part)
    with core.db.core() as c:
        job_store.wait_for_children(c, part, below, {})
        assert job_requests.request_cancel(c, job.id).state is Status.CANCELLED
    with core.db.core() as c:
        assert {job_store.get(c, one.id).state for one in (part, *below)} == {Status.CANCELLED}


def test_a_job_past_its_time_puts_together_what_its_parts_have_done(core: Core) -> None:
    job = core.held()
    parts = parts_of(core, job)
    with core.db.core() as c:
        job_store.wait_for_children(c, job, parts, {"finalize_on_cancel": True})
        c.execute("UPDATE core.job SET expires_at = now() - interval '1 second' WHERE id = %s", (job.id,))
    with core.db.core() as c:
        assert job_store.expire_overdue(c) == []
        job_requests.expire_overdue(c)
        job_requests.expire_overdue(c)
        assert {job_store.get(c, part.id).state for part in parts} == {Status.CANCELLED}
        asked = [e["message"] for e in job_store.list_events(c, job.id) if e["type"] == "cancel_requested"]
    assert asked == ["its time is over"]
    whole = core.claim()
    assert whole is not None
    assert (whole.id, whole.progress["expired"]) == (job.id, True)
    assert core.leave(whole, Status.EXPIRED).state is Status.EXPIRED


def test_a_waiting_job_is_cancelled_and_paused_at_once(core: Core) -> None:
    cancelled, paused = core.submit(), core.submit()
    with core.db.core() as c:
        assert job_requests.request_cancel(c, cancelled.id).state is Status.CANCELLED
        assert job_requests.request_pause(c, paused.id).state is Status.PAUSED
    assert core.claim() is None
    with core.db.core() as c:
        job_requests.resume(c, paused.id)
    assert core.claim().id == paused.id  # type: ignore[union-attr]


def test_an_ended_job_cannot_be_cancelled_paused_or_resumed(core: Core) -> None:
    job = core.held()
    core.leave(job, Status.SUCCEEDED)
    for ask in (
        job_requests.request_cancel,
        job_requests.request_pause,
        job_requests.resume,
        job_requests.replay,
    ):
        with pytest.raises(Conflict), core.db.core() as c:
            ask(c, job.id)


def test_the_same_idempotency_key_is_the_same_job_and_another_body_is_refused(core: Core) -> None:
    first, created = core.submit_new(idempotency_key="k", body_hash=b"1")
    again, created_again = core.submit_new(idempotency_key="k", body_hash=b"1")
    assert (created, created_again) == (True, False)
    assert first.id == again.id
    with pytest.raises(InvalidInput, match="another body"):
        core.submit(idempotency_key="k", body_hash=b"2")


def racing(work: Callable[[], Any], count: int = 8) -> list[Any]:
    """What `count` threads got that did `work` at the same moment."""
    with ThreadPoolExecutor(count) as pool:
        return [future.result(60) for future in [pool.submit(work) for _ in range(count)]]


def test_racing_requests_under_one_key_are_one_job(core: Core) -> None:
    answers = racing(lambda: core.submit_new(idempotency_key="k", body_hash=b"1"))
    assert len({job.id for job, _ in answers}) == 1
    assert [created for _, created in answers].count(True) == 1


def test_a_client_retry_without_a_key_finds_the_first_job(core: Core) -> None:
    first = core.submit(api_key_id="key_1", body_hash=b"b")
    again = core.retried("key_1", b"b")
    assert again is not None
    assert again.id == first.id
    assert core.retried("key_1", b"c") is None
    assert core.retried("key_2", b"b") is None
    assert core.retried(None, b"b") is None
    assert core.retried("key_1", b"b", core.new_tenant("rival")) is None
    # Without auth there is no key to tell apart.
    keyless = core.submit(body_hash=b"b")
    again = core.retried(None, b"b")
    assert again is not None
    assert again.id == keyless.id


def test_a_client_retry_waits_for_the_first_try_that_is_about_to_commit(core: Core) -> None:
    found: list[Job | None] = []
    retry = threading.Thread(target=lambda: found.append(core.retried("key_1", b"b")))
    new = core.new(api_key_id="key_1", body_hash=b"b")
    with core.db.transaction(core.tenant) as c:
        first, _ = job_store.submit(c, new)
        retry.start()
        wait_for(lambda: found or core.waiting_for_locks(), 10, "the retry to wait")
        assert found == []
    retry.join(10)
    assert [job.id for job in found if job is not None] == [first.id]


def test_first_tries_of_the_same_body_do_not_wait_for_each_other(core: Core) -> None:
    with core.db.transaction(core.tenant) as c:
        one, _ = job_store.submit(c, core.new(api_key_id="key_1", body_hash=b"b", queue="q1"))
        other = core.submit(api_key_id="key_1", body_hash=b"b", queue="q2")
    assert one.id != other.id


def test_a_child_waits_for_its_parents_and_fails_with_them(core: Core) -> None:
    good, bad = core.submit(), core.submit()
    after_good = core.submit(depends_on=(good.id,))
    after_bad = core.submit(depends_on=(bad.id,))
    after_after_bad = core.submit(depends_on=(after_bad.id,))
    held = [core.claim(), core.claim()]
    assert core.claim() is None
    core.leave(held[0], Status.SUCCEEDED)  # type: ignore[arg-type]
    core.leave(held[1], Status.FAILED, error={"code": "x", "message": "y"})  # type: ignore[arg-type]
    assert core.claim().id == after_good.id  # type: ignore[union-attr]
    for child in (after_bad, after_after_bad):
        ended = core.get(child)
        assert (ended.state, ended.error["code"]) == (Status.FAILED, "dependency_failed")  # type: ignore[index]
    with pytest.raises(NotFound):
        core.submit(depends_on=("job_none",))


def test_a_job_with_parts_comes_back_when_all_have_ended_however(core: Core) -> None:
    whole = core.held()
    parts = [
        NewJob(
            id=new_id("part_"), tenant_id=core.tenant, kind="noop", queue="q", payload={}, parent_id=whole.id
        )
        for _ in range(3)
    ]
    with core.db.core() as c:
        waiting = job_store.wait_for_children(c, whole, parts, {"phase": "rows"})
    assert (waiting.state, waiting.blocked_by, waiting.attempt) == (Status.QUEUED, 3, 0)
    for target in (Status.SUCCEEDED, Status.FAILED, Status.DEAD):
        part = core.claim()
        assert part is not None
        assert part.id != whole.id
        core.leave(part, target)
    back = core.claim()
    assert back is not None
    assert (back.id, back.progress["phase"]) == (whole.id, "rows")


def test_a_drained_job_gets_its_attempt_back(core: Core) -> None:
    job = core.held()
    left = core.leave(job, Status.QUEUED, charged=False)
    assert (left.attempt, core.running()) == (0, 0)


def test_a_tenant_sees_and_cancels_only_its_own(core: Core) -> None:
    other = core.new_tenant("other")
    job = core.submit()
    for ask in (job_store.get, job_requests.request_cancel):
        with pytest.raises(NotFound), core.db.transaction(other) as c:
            ask(c, job.id)
    with core.db.transaction(other) as c:
        assert job_store.list_jobs(c, other) == ([], False)
        assert c.execute("UPDATE core.job SET priority = 9").rowcount == 0


def test_every_table_with_a_tenant_forces_row_level_security(core: Core) -> None:
    with core.db.core() as c:
        rows = c.execute(
            "SELECT c.oid::regclass::text AS name, c.relrowsecurity AND c.relforcerowsecurity AS forced "
            "FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
            "WHERE a.attname = 'tenant_id' AND c.relkind = 'r'"
        ).fetchall()
    assert len(rows) > 10
    assert [r["name"] for r in rows if not r["forced"]] == []


def test_lists_page_by_cursor_newest_first_without_parts(core: Core) -> None:
    ids = [core.submit().id for _ in range(5)]
    core.submit(parent_id=ids[0])
    with core.db.transaction(core.tenant) as c:
        page, more = job_store.list_jobs(c, core.tenant, limit=2)
        rest, no_more = job_store.list_jobs(c, core.tenant, limit=10, after=page[-1].id)
    assert [j.id for j in page + rest] == ids[::-1]
    assert (more, no_more) == (True, False)


def test_position_counts_the_tenants_jobs_that_go_before(core: Core) -> None:
    core.submit()
    job = core.submit()
    core.submit(priority=3)
    with core.db.core() as c:
        assert job_store.position(c, job) == 2


def test_the_end_of_a_job_queues_its_webhook_in_the_same_transaction(core: Core) -> None:
    with core.db.core() as c:
        c.execute(
            "INSERT INTO core.webhook_endpoint (id, tenant_id, url, secret, events) "
            "VALUES ('we', %s, 'http://x', 's', %s)",
            (core.tenant, ["job.succeeded"]),
        )
    core.leave(core.held(), Status.SUCCEEDED)
    core.leave(core.held(), Status.FAILED)
    with core.db.core() as c:
        rows = c.execute("SELECT body FROM core.webhook_delivery").fetchall()
    assert len(rows) == 1
