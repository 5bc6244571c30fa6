"""How many doorbells are rung."""

from __future__ import annotations

from services.dispatcher.relay import ring_where_needed


class Bell:
    """Remembers rings; every queue has the backlog that the test gives."""

    def __init__(self, backlog: int = 0) -> None:
        self.waiting = backlog
        self.rung: list[tuple[str, int]] = []

    def backlog(self, queue: str) -> int:
        return self.waiting

    def ring(self, queue: str, times: int = 1) -> int:
        self.rung.append((queue, times))
        return times


def test_a_queue_is_rung_once_a_job_up_to_its_slots() -> None:
    bell = Bell()
    assert ring_where_needed({"few": 2, "many": 100}, {"few": 4, "many": 4}, bell) == {"few": 2, "many": 4}


def test_doorbells_that_wait_already_count() -> None:
    bell = Bell(backlog=3)
    assert ring_where_needed({"q": 100}, {"q": 4}, bell) == {"q": 1}


def test_nothing_is_rung_when_enough_wait() -> None:
    bell = Bell(backlog=4)
    assert ring_where_needed({"q": 100}, {"q": 4}, bell) == {}
    assert bell.rung == []


def test_a_queue_without_a_worker_gets_one_ring_for_the_first_that_comes() -> None:
    assert ring_where_needed({"q": 9}, {}, Bell()) == {"q": 1}
