"""Doorbells and the pool that wakes Celery's hub, on a real Redis with a real worker process."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from shared.errors import Unavailable
from shared.queue import DOORBELLS_ENOUGH, Publisher, WakingPool, broker_url
from shared.streams import PREFIX
from shared.telemetry import Tracing
from tests import servers
from tests.harness import ROOT, wait_for
from tests.integration.slow_queue_worker import QUEUE


class Slow:
    """A worker process whose requests end when the test says so, and what it has noted."""

    def __init__(self, redis_url: str, folder: Path, slots: int) -> None:
        self.folder = folder
        (folder / "log").touch()
        with (folder / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.integration.slow_queue_worker",
                    redis_url,
                    str(folder),
                    str(slots),
                ],
                cwd=ROOT,
                stdout=stderr,
                stderr=stderr,
            )

    @property
    def notes(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    def wait_note(self, line: str) -> None:
        wait_for(lambda: line in self.notes or self.process.poll() is not None, 60, line)
        assert line in self.notes, (self.folder / "stderr").read_text()[-3000:]

    def finish(self, name: str) -> None:
        (self.folder / name).touch()


@pytest.fixture
def publisher(redis_url: str) -> Iterator[Publisher]:
    made = Publisher(redis_url, Tracing("test"))
    yield made
    made.close()


@pytest.fixture
def slow(redis_url: str, tmp_path: Path) -> Iterator[Slow]:
    worker = Slow(redis_url, tmp_path, slots=2)
    try:
        worker.wait_note("ready")
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


def send(publisher: Publisher, *names: str) -> None:
    for name in names:
        publisher.send_live(QUEUE, {"name": name}, expires_s=600, parent=None)


def waiting(redis_url: str) -> int:
    with redis.Redis.from_url(redis_url) as client:
        return int(client.llen(f"{PREFIX}{QUEUE}"))


def test_a_freed_slot_takes_the_next_request_and_no_other_is_hoarded(
    redis_url: str, publisher: Publisher, slow: Slow
) -> None:
    send(publisher, "a", "b", "c", "d")
    slow.wait_note("start a")
    slow.wait_note("start b")
    # Both slots are taken, so what is left stays where another worker could take it.
    assert waiting(redis_url) == 2
    slow.finish("b")
    slow.wait_note("start c")
    # Of two threads that start together either may write first.
    assert sorted(slow.notes[:3]) == ["ready", "start a", "start b"]
    assert slow.notes[3:] == ["end b", "start c"]
    assert waiting(redis_url) == 1
    slow.finish("a")
    slow.wait_note("start d")
    assert slow.notes[-2:] == ["end a", "start d"]


def test_a_thread_that_ends_wakes_the_loop_through_the_pipe() -> None:
    """The order above would also come about by Celery's own second; this is what makes it come at once."""

    class Hub:
        def __init__(self) -> None:
            self.readers: dict[int, object] = {}

        def add_reader(self, fd: int, callback: object) -> None:
            self.readers[fd] = callback

    pool = WakingPool(2)
    hub = Hub()
    pool.on_start()
    try:
        pool.register_with_event_loop(hub)
        (heard, drain), *rest = hub.readers.items()
        assert not rest
        pool.on_apply(lambda: None, (), {}, lambda _: None, None).f.result()

        assert select.select([heard], [], [], 60)[0] == [heard]
        drain()  # type: ignore[operator]
        assert select.select([heard], [], [], 0)[0] == []
    finally:
        pool.on_stop()


def test_a_thousand_ends_that_nobody_hears_do_not_block_the_threads() -> None:
    pool = WakingPool(4)
    pool.on_start()
    try:
        results = [pool.on_apply(lambda: None, (), {}, lambda _: None, None) for _ in range(1000)]
        for result in results:
            result.f.result(60)
        for _ in range(70_000):
            pool._ended(results[0].f)
    finally:
        pool.on_stop()


def test_a_request_past_its_expiry_is_not_served(
    redis_url: str, tmp_path: Path, publisher: Publisher
) -> None:
    publisher.send_live(QUEUE, {"name": "old"}, expires_s=-1, parent=None)
    send(publisher, "new")
    worker = Slow(redis_url, tmp_path, slots=1)
    try:
        worker.wait_note("start new")
        assert "start old" not in worker.notes
    finally:
        worker.process.kill()
        worker.process.wait()


def test_rings_are_bounded_and_carry_their_trace(redis_url: str, publisher: Publisher) -> None:
    assert publisher.ring(QUEUE, 10_000) == DOORBELLS_ENOUGH
    assert publisher.ring(QUEUE) == 0
    assert waiting(redis_url) == DOORBELLS_ENOUGH


def test_a_ring_is_heard_with_the_trace_that_it_carries(publisher: Publisher, slow: Slow) -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    publisher.ring(QUEUE, parent=parent)
    wait_for(lambda: any(note.startswith("ring ") for note in slow.notes), 60, "the ring")
    heard = next(note for note in slow.notes if note.startswith("ring "))
    assert heard.startswith(f"ring {QUEUE} 00-{'a' * 32}-")


def test_a_worker_hears_again_after_redis_forgot_everything(
    redis_url: str, publisher: Publisher, slow: Slow
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    send(publisher, "after")
    slow.wait_note("start after")


def test_sigterm_tells_of_the_drain_first_and_loses_neither_what_runs_nor_what_comes(
    redis_url: str, publisher: Publisher, slow: Slow
) -> None:
    send(publisher, "last")
    slow.wait_note("start last")
    slow.process.terminate()
    slow.wait_note("drain")
    slow.finish("late")
    send(publisher, "late")
    slow.finish("last")
    assert slow.process.wait(60) == 0
    assert "end last" in slow.notes
    # Whether the worker had asked for one more by then is a matter of moments; it is served or still waits.
    assert ("end late" in slow.notes) != (waiting(redis_url) == 1)


def test_a_publisher_says_that_redis_is_away() -> None:
    with servers.valkey_server() as valkey:
        publisher = Publisher(valkey.url, Tracing("test"))
        valkey.kill()
        for work in (lambda: publisher.ring(QUEUE), lambda: send(publisher, "x")):
            with pytest.raises(Unavailable) as caught:
                work()
            assert caught.value.code == "redis_unavailable"
        valkey.start()
        assert publisher.ring(QUEUE) == 1
        publisher.close()


def test_a_unix_socket_is_spelt_kombus_way() -> None:
    assert broker_url("unix://:pw@/run/v.sock?db=0") == "redis+socket://:pw@/run/v.sock?virtual_host=0"
    assert broker_url("redis://:pw@host:6379/0") == "redis://:pw@host:6379/0"
