"""How many workers a pool should have."""

from __future__ import annotations

from typing import Any

import pytest

from services.gateway.operator.scaling import Capacity, capacity, desired_workers, queues_by_name


@pytest.mark.parametrize(
    ("state", "desired"),
    [
        ({"waiting": 0, "busy_slots": 0}, 0),
        ({"waiting": 1, "busy_slots": 0}, 1),
        ({"waiting": 9, "busy_slots": 4, "slots_each": 4}, 4),
        ({"waiting": 0, "busy_slots": 2, "slots_each": 4, "busy_workers": 2}, 2),
        ({"waiting": 1, "busy_slots": 1, "slots_each": 4, "workers": 3, "oldest_s": 61.0}, 4),
    ],
)
def test_a_pool_wants_room_for_all_and_one_more_while_old_work_waits(
    state: dict[str, float], desired: int
) -> None:
    base = {"slots_each": 1, "busy_workers": 0, "oldest_s": 0.0, "workers": 0}
    assert desired_workers(**{**base, **state}) == desired  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pool", "queues"),
    [
        ("inference.h200", {"inference.h200.live", "inference.h200.batch"}),
        ("inference.h200.live", {"inference.h200.live"}),
        ("data", {"data", "data.live"}),
        ("training.x", {"training.x"}),
        ("inference", set()),
        ("nowhere", set()),
        ("inference.", set()),
    ],
)
def test_a_pool_has_its_queues_before_any_of_its_workers_was_seen(pool: str, queues: set[str]) -> None:
    templates = ("inference.{pool}.live", "inference.{pool}.batch", "training.{pool}", "data", "data.live")
    assert queues_by_name(pool, templates) == queues


def worker(**told: Any) -> dict[str, Any]:
    """A training worker: a slot for training, two for what trains nothing, one for live requests."""
    queues = ["training.gpu", "training.light", "training.live"]
    shared_out = {"training.gpu": 1, "training.light": 2}
    return {"queues": queues, "slots": 4, "busy": 0, "job_slots": shared_out, "running": {}} | told


def test_slots_of_other_queues_do_not_count_for_a_pool() -> None:
    plans = worker(busy=3, running={"training.light": 2})
    trains = worker(busy=2, running={"training.gpu": 1, "training.light": 1})
    assert capacity([plans, trains], {"training.gpu"}) == Capacity(workers=2, slots=2, busy=1, busy_workers=2)
    assert capacity([plans, trains], {"training.live"}) == Capacity(
        workers=2, slots=2, busy=1, busy_workers=2
    )


def test_queues_of_live_requests_share_their_slots() -> None:
    one = worker(
        queues=["batch", "a.live", "b.live"], slots=6, job_slots={"batch": 2}, busy=3, running={"batch": 1}
    )
    assert capacity([one], {"a.live", "b.live"}) == Capacity(workers=1, slots=4, busy=2, busy_workers=1)
    assert capacity([one], {"batch", "a.live", "b.live"}).slots == 6


def test_a_worker_that_does_not_tell_how_its_slots_are_shared_out_counts_with_all() -> None:
    old = worker(job_slots=None, running=None, busy=2)
    assert capacity([old], {"training.gpu"}) == Capacity(workers=1, slots=4, busy=2, busy_workers=1)


def test_a_pool_without_workers_counts_on_one_slot_each() -> None:
    assert capacity([], {"training.gpu"}).slots_each == 1
