"""The loop by itself, on one weight that is its own step: which weights are kept, when it ends, and what it tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from services.training.checkpoint import Checkpoint, CheckpointStore, verify
from services.training.loop import Loop
from services.training.plan import Rhythm, Schedule
from services.training.run import Run, Stopped
from shared.errors import HeliuError
from shared.frames import Frame

# Of the looks after steps 2, 4, 6, ...
FALLS_THEN_RISES = (5.0, 3.0, 4.0, 3.5, 2.0, 1.0)


class Counting(Loop):
    """Each step adds 1 to its weight; every second one ends an epoch; looks find what the test says."""

    def __init__(
        self, run: Run, folder: Path, losses: Sequence[float], *, patience: int | None, keep_best: bool
    ) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self._losses, self._untold_steps = losses, 0
        rhythm = Rhythm(Schedule.of(2 * len(losses), 0.0, None), 1.0, 3, 2, patience, keep_best)
        optimizer = torch.optim.SGD([self.weight], lr=1.0)
        store = CheckpointStore(folder, "the run")
        super().__init__(run, {"weight": self.weight}, optimizer, rhythm, store, watched=bool(losses))

    @property
    def epoch(self) -> float:
        return self.step / 2

    def one_step(self) -> int:
        with torch.no_grad():
            self.weight += 1
        self._untold_steps += 1
        return 10

    def report(self, seconds: float) -> dict[str, float]:
        assert seconds > 0
        steps, self._untold_steps = self._untold_steps, 0
        return {"train_loss": float(steps)}

    def validate(self) -> dict[str, float]:
        if self._run.stop_reason:
            raise Stopped(self._run.stop_reason, self.step)
        return {"valid_loss": self._losses[self.step // 2 - 1]}


def counting(folder: Path, run: Run, *, patience: int | None = None, keep_best: bool = True) -> Counting:
    return Counting(run, folder, FALLS_THEN_RISES, patience=patience, keep_best=keep_best)


def told(frames: list[Frame], kind: str) -> list[Frame]:
    return [frame for frame in frames if frame["type"] == kind]


def test_the_weights_of_the_best_look_are_kept_and_told(tmp_path: Path) -> None:
    frames: list[Frame] = []
    losses = (5.0, 1.0, 4.0, 3.0)
    loop = Counting(Run(frames.append), tmp_path, losses, patience=None, keep_best=True)
    loop.train()
    assert loop.weight.item() == 4
    assert loop.ends == {"steps": 8, "best_step": 4}
    assert loop.last_metrics["valid_loss"] == 1.0
    assert told(frames, "event")[-1]["message"].startswith("keeps the weights of step 4")


def test_the_last_weights_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    frames: list[Frame] = []
    losses = (5.0, 1.0, 4.0, 3.0)
    loop = Counting(Run(frames.append), tmp_path, losses, patience=None, keep_best=False)
    loop.train()
    assert (loop.weight.item(), loop.ends) == (8, {"steps": 8})
    assert loop.last_metrics["valid_loss"] == 3.0


def test_a_run_ends_when_patience_does_and_says_why(tmp_path: Path) -> None:
    frames: list[Frame] = []
    loop = counting(tmp_path, Run(frames.append), patience=2)
    loop.train()
    # The third and the fourth look find nothing better than the second.
    assert loop.ends == {"steps": 8, "planned_steps": 12, "best_step": 4}
    assert loop.weight.item() == 4
    [why] = [one for one in told(frames, "event") if "ends early" in one["message"]]
    assert why["message"].startswith("ends early, at step 8 of 12: valid_loss was 3 at step 4, and 2 looks")
    assert why["data"] == {"step": 8, "best_step": 4, "planned_steps": 12}
    # Whoever waits for the end sees it reached.
    assert [(one["step"], one["total_steps"]) for one in told(frames, "progress")][-1] == (8, 8)
    assert told(frames, "metrics")[-1]["data"]["total_steps"] == 8
    reported = [
        one["data"]["train_loss"] for one in told(frames, "metrics") if "valid_loss" not in one["data"]
    ]
    assert sum(reported) == 8


def test_patience_is_counted_from_the_best_look(tmp_path: Path) -> None:
    loop = counting(tmp_path, Run(lambda _: None), patience=3)
    loop.train()
    assert loop.ends == {"steps": 12, "best_step": 12}
    assert loop.weight.item() == 12


def test_a_run_without_held_out_rows_keeps_its_last_weights(tmp_path: Path) -> None:
    loop = Counting(Run(lambda _: None), tmp_path, (), patience=None, keep_best=True)
    loop._schedule.total = 4
    loop.train()
    assert (loop.weight.item(), loop.ends) == (4, {"steps": 4})


def test_a_loss_that_is_no_number_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    loop = Counting(Run(lambda _: None), tmp_path, (1.0, float("nan")), patience=1, keep_best=True)
    with pytest.raises(HeliuError) as caught:
        loop.train()
    assert caught.value.code == "training_diverged"


@pytest.mark.parametrize(
    ("patience", "stop"), [*((None, step) for step in range(1, 12)), *((2, step) for step in range(1, 8))]
)
def test_a_run_that_stops_anywhere_ends_as_if_it_had_not(
    tmp_path: Path, patience: int | None, stop: int
) -> None:
    """Steps 2, 4, ... are asked to stop before their look, which is then owed; the others at their boundary."""
    frames: list[Frame] = []
    whole = counting(tmp_path / "whole", Run(lambda _: None), patience=patience)
    whole.train()
    run = Run(frames.append)
    first = counting(tmp_path / "first", run, patience=patience)
    step = first.one_step

    def then_stop() -> int:
        if first.step + 1 == stop:
            run.request_stop("pause")
        return step()

    first.one_step = then_stop  # type: ignore[method-assign]
    with pytest.raises(Stopped) as stopped:
        first.train()
    assert stopped.value.step == stop
    kept = verify(Path(told(frames, "checkpoint")[-1]["path"]))
    after: list[Frame] = []
    second = counting(tmp_path / "second", Run(after.append), patience=patience)
    second.restore(kept)
    second.train()
    assert (second.weight.item(), second.ends) == (whole.weight.item(), whole.ends)
    assert second.trained_tokens == whole.trained_tokens
    assert second.last_metrics["valid_loss"] == whole.last_metrics["valid_loss"]
    looks = [one["step"] for one in told(frames + after, "metrics") if "valid_loss" in one["data"]]
    assert sorted(set(looks)) == list(range(2, whole.step + 1, 2))


def test_a_checkpoint_of_an_earlier_release_is_gone_on_from(tmp_path: Path) -> None:
    frames: list[Frame] = []
    first = counting(tmp_path / "first", Run(frames.append))
    first.train()
    last = told(frames, "checkpoint")[-1]
    kept = Path(last["path"])
    state: dict[str, Any] = torch.load(kept / "trainer_state.pt", weights_only=True)
    del state["looks"], state["owes_validation"]
    torch.save(state, kept / "trainer_state.pt")
    second = counting(tmp_path / "second", Run(lambda _: None))
    second.restore(Checkpoint(kept, last["step"], "the run", last["metrics"], last["manifest_sha256"]))
    second.train()
    assert (second.weight.item(), second.ends) == (12, {"steps": 12, "best_step": 12})
