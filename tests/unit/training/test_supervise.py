"""How a trainer's child is heard and stopped, with a real child that only plays."""

from __future__ import annotations

from typing import Any

import pytest

from services.training.supervise import Sink, supervise
from shared.errors import HeliuError
from shared.stop import ChildCrashed, Stop, Stopped


class Job:
    """A job's context as supervision sees it; `stop_at_metrics` asks to stop once the child works."""

    def __init__(self, stop_at_metrics: Stop | None = None) -> None:
        self.reason: Stop | None = None
        self.heard: list[tuple[Any, ...]] = []
        self._stop_at_metrics = stop_at_metrics

    def touch(self) -> None:
        self.heard.append(("touch",))

    def sink(self) -> Sink:
        def metrics(step: int, data: dict[str, Any]) -> None:
            self.heard.append(("metrics", step, data["train_loss"]))
            self.reason = self._stop_at_metrics

        return Sink(
            event=lambda level, message, data: self.heard.append(("event", level, message)),
            metrics=metrics,
            checkpoint=lambda step, path, found: self.heard.append(("checkpoint", step, str(path))),
            span=lambda name, start, end, attributes: self.heard.append(("span", name, start, end)),
            progress=lambda step, total, at: self.heard.append(("progress", step, total, at)),
            touch=self.touch,
        )


def run(job: Job, act: str, grace_s: float = 20.0) -> dict[str, Any]:
    return supervise(
        job, {"act": act}, job.sink(), grace_s=grace_s, module="tests.unit.training.fake_trainer"
    )


def test_every_frame_reaches_its_place_and_the_result_comes_back() -> None:
    job = Job()
    assert run(job, "finish")["trained_tokens"] == 7
    told = [heard for heard in job.heard if heard != ("touch",)]
    assert told == [
        ("metrics", 1, 2.0),
        ("progress", 1, 9, 12.5),
        ("event", "info", "almost"),
        ("checkpoint", 1, "/checkpoint"),
        ("span", "load", 1, 2),
    ]


def test_the_childs_own_error_keeps_its_code_and_place() -> None:
    with pytest.raises(HeliuError, match="line 3") as caught:
        run(Job(), "fail")
    assert (caught.value.code, caught.value.param) == ("invalid_training_file", "training_file")
    assert not caught.value.retryable


def test_a_child_that_dies_is_a_crash_with_the_signal_named() -> None:
    with pytest.raises(ChildCrashed, match="SIGKILL"):
        run(Job(), "die")


@pytest.mark.parametrize("reason", [Stop.PAUSE, Stop.CANCEL, Stop.DRAIN])
def test_a_request_to_stop_is_passed_on_told_and_answered(reason: Stop) -> None:
    job = Job(reason)
    with pytest.raises(Stopped) as caught:
        run(job, "obey")
    assert caught.value.reason is reason
    assert ("event", "info", f"asked to stop at its next step: {reason.value}") in job.heard


def test_a_child_that_does_not_stop_is_killed_after_its_grace() -> None:
    with pytest.raises(Stopped) as caught:
        run(Job(Stop.DRAIN), "ignore", grace_s=0.2)
    assert caught.value.reason is Stop.DRAIN


def test_a_lost_lease_kills_at_once() -> None:
    with pytest.raises(Stopped) as caught:
        run(Job(Stop.LOST), "obey")
    assert caught.value.reason is Stop.LOST
