"""Jobs that wait for the first of their parts, on a real Postgres: no end is lost, none wakes them twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from shared import job_requests, job_store
from shared.db import Connection
from shared.jobs import Job, NewJob, Status
from tests.harness import wait_for
from tests.integration.test_job_store import Core, parts_of

FLAGS = {"finalize_on_cancel": True, "pause_parts": True}


@pytest.fixture
def core(database_url: str) -> Iterator[Core]:
    core = Core(database_url)
    yield core
    core.db.close()


def wait(core: Core, whole: Job, new: list[NewJob], **options: Any) -> Job:
    with core.db.core() as c:
        return job_store.wait_for_children(c, whole, new, FLAGS, **{"any_of": True, **options})


def handed_out(core: Core, count: int = 2) -> tuple[Job, list[Job]]:
    """A job that waits for the first of its parts, and these, claimed."""
    whole = core.held()
    waiting = wait(core, whole, parts_of(core, whole, count))
    assert waiting.blocked_by == 1
    parts = [core.claim() for _ in range(count)]
    assert core.claim() is None
    return waiting, [part for part in parts if part is not None]


def claimed(core: Core) -> Job:
    job = core.claim()
    assert job is not None
    return job


def test_a_job_comes_back_when_the_first_of_its_parts_has_ended_and_then_at_the_next(core: Core) -> None:
    whole, (first, second) = handed_out(core)
    core.leave(first, Status.FAILED)
    back = claimed(core)
    assert (back.id, back.attempt) == (whole.id, 1)
    [third] = parts_of(core, whole, 1)
    assert wait(core, back, [third], awaited=[second.id]).blocked_by == 1
    running = claimed(core)
    assert running.id == third.id
    assert core.claim() is None
    core.leave(second, Status.SUCCEEDED)
    assert claimed(core).id == whole.id
    # The last end finds the job at work, and has nobody to wake.
    core.leave(running, Status.SUCCEEDED)
    assert core.get(whole).state is Status.LEASED


def test_ends_that_come_together_bring_the_job_back_once(core: Core) -> None:
    whole, parts = handed_out(core, 3)
    threads = [threading.Thread(target=core.leave, args=(part, Status.SUCCEEDED)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    back = claimed(core)
    assert (back.id, back.blocked_by) == (whole.id, 0)
    assert core.claim() is None


def test_an_end_that_the_job_did_not_see_brings_it_back_at_once(core: Core) -> None:
    whole, (first, second) = handed_out(core)
    core.leave(first, Status.SUCCEEDED)
    back = claimed(core)
    core.leave(second, Status.SUCCEEDED)
    assert wait(core, back, [], awaited=[second.id]).blocked_by == 0
    assert claimed(core).id == whole.id


def test_an_end_that_is_about_to_commit_is_waited_for_and_not_lost(core: Core) -> None:
    whole, (first, second) = handed_out(core)
    core.leave(first, Status.SUCCEEDED)
    back = claimed(core)
    waited: list[Job] = []
    thread = threading.Thread(target=lambda: waited.append(wait(core, back, [], awaited=[second.id])))
    with core.db.core() as c:
        job_store.leave(c, second, Status.SUCCEEDED, message="left")
        thread.start()
        wait_for(lambda: core.waiting_for_locks() == 1, 60, "the wait to meet the end")
    thread.join(60)
    assert [job.blocked_by for job in waited] == [0]
    assert claimed(core).id == whole.id


def test_all_of_the_parts_that_are_still_open_can_be_waited_for(core: Core) -> None:
    whole, (first, second, third) = handed_out(core, 3)
    core.leave(first, Status.SUCCEEDED)
    back = claimed(core)
    assert wait(core, back, [], awaited=[second.id, third.id], any_of=False).blocked_by == 2
    core.leave(second, Status.SUCCEEDED)
    assert core.claim() is None
    core.leave(third, Status.SUCCEEDED)
    assert claimed(core).id == whole.id


def test_what_is_written_with_the_parts_is_written_with_them_or_not_at_all(core: Core) -> None:
    whole = core.held()

    def fail(_: Connection) -> None:
        raise RuntimeError("the write failed")

    with pytest.raises(RuntimeError):
        wait(core, whole, parts_of(core, whole), write=fail)
    assert core.get(whole).state is Status.LEASED
    assert core.claim() is None


def test_a_pause_takes_the_parts_along_and_a_resume_brings_them_back(core: Core) -> None:
    whole, (first, second) = handed_out(core)
    core.leave(second, Status.QUEUED, charged=False)
    with core.db.core() as c:
        assert job_requests.request_pause(c, whole.id).state is Status.PAUSED
    assert core.get(first).pause_requested_at is not None
    assert core.get(second).state is Status.PAUSED
    core.leave(first, Status.PAUSED, charged=False)
    assert core.claim() is None
    with core.db.core() as c:
        assert job_requests.resume(c, whole.id).state is Status.QUEUED
    assert {claimed(core).id, claimed(core).id} == {first.id, second.id}
    assert core.claim() is None


def test_a_job_that_is_paused_before_it_hands_out_its_parts_hands_out_none(core: Core) -> None:
    whole = core.held()
    written: list[Connection] = []
    with core.db.core() as c:
        job_requests.request_pause(c, whole.id)
    left = wait(core, whole, parts_of(core, whole), write=written.append)
    assert (left.state, left.attempt, written) == (Status.PAUSED, 0, [])
    assert core.claim() is None
    with core.db.core() as c:
        job_requests.resume(c, whole.id)
    assert claimed(core).id == whole.id


def test_a_cancelled_job_hands_out_no_more_and_comes_back_to_put_together_what_there_is(core: Core) -> None:
    whole, (first, second) = handed_out(core)
    core.leave(first, Status.SUCCEEDED)
    back = claimed(core)
    with core.db.core() as c:
        job_requests.request_cancel(c, whole.id)
    left = wait(core, back, parts_of(core, whole, 1), awaited=[second.id])
    assert (left.state, left.blocked_by) == (Status.QUEUED, 0)
    again = claimed(core)
    assert again.cancel_requested_at is not None
    assert wait(core, again, [], awaited=[second.id], any_of=False).blocked_by == 1
    core.leave(second, Status.CANCELLED)
    assert core.leave(claimed(core), Status.CANCELLED).state is Status.CANCELLED


def test_a_paused_job_that_is_cancelled_comes_back_to_put_together_what_there_is(core: Core) -> None:
    whole, parts = handed_out(core)
    with core.db.core() as c:
        job_requests.request_pause(c, whole.id)
    for part in parts:
        core.leave(part, Status.PAUSED, charged=False)
    with core.db.core() as c:
        job_requests.request_cancel(c, whole.id)
    assert {core.get(part).state for part in parts} == {Status.CANCELLED}
    assert claimed(core).id == whole.id
