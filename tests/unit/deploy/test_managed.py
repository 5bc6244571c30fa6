"""The life of one supervised process, without any process."""

from __future__ import annotations

import time

from deploy.managed import LONGEST_PAUSE, Process
from deploy.table import Spec


def process(kind: str = "service") -> Process:
    return Process(Spec("worker", ("x",), kind), 2)  # type: ignore[arg-type]


def test_the_pause_doubles_with_every_fall_up_to_a_limit() -> None:
    one, pauses = process(), []
    for _ in range(9):
        before = time.monotonic()
        one.fall(1)
        pauses.append(round(one.due - before, 1))
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == LONGEST_PAUSE
    assert (one.restarts, one.state) == (9, "backoff")


def test_a_process_that_was_long_ready_is_forgiven_its_earlier_falls() -> None:
    one = process()
    one.falls, one.state, one.since = 5, "ready", time.time() - 3600
    one.ended(1, wanted=False)
    assert (one.falls, one.state) == (1, "backoff")


def test_a_wanted_end_is_no_fall() -> None:
    one = process()
    one.state = "stopping"
    one.ended(-15, wanted=False)
    assert (one.state, one.restarts) == ("stopped", 0)


def test_a_task_is_done_or_failed_and_never_run_again() -> None:
    for code, state in ((0, "done"), (1, "failed")):
        task = process("task")
        task.state = "starting"
        task.ended(code, wanted=False)
        assert (task.state, task.satisfied) == (state, code == 0)


def test_a_service_has_its_number_in_its_name() -> None:
    assert (process().name, process("task").name) == ("worker.2", "worker")
