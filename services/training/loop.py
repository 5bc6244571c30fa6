"""The loop that the project's own trainers run: steps, checkpoints between them, looks at held-out rows, and the best
weights kept; resumed bitwise. Knows no batches and no loss.
"""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from safetensors.torch import load_file, save_file

from services.training.checkpoint import Checkpoint, CheckpointStore
from services.training.early_stopping import Looks
from services.training.plan import Rhythm
from services.training.run import Run, Stopped

_STATE, _BEST = "trainer_state.pt", "best.safetensors"


class Loop(ABC):
    """Where a run is: `step` finished steps, the tokens of them, and the figures told last.

    A subclass makes one step and measures; `weights` are what it trains, by name, as `weights_file` keeps them.
    """

    weights_file: ClassVar[str] = "trainable.safetensors"

    def __init__(
        self,
        run: Run,
        weights: Mapping[str, torch.nn.Parameter],
        optimizer: Any,
        rhythm: Rhythm,
        store: CheckpointStore,
        *,
        watched: bool = True,
    ) -> None:
        """`optimizer` is anything with torch's `state_dict` and `load_state_dict`; `watched` says whether rows are held
        out."""
        self._run, self._weights, self._optimizer, self._store = run, weights, optimizer, store
        self._rhythm, self._schedule, self._watched = rhythm, rhythm.schedule, watched
        self.step = 0
        self.trained_tokens = 0
        self.last_metrics: dict[str, float] = {}
        # A stop cut short the look at held-out rows which this step is due.
        self.owes_validation = False
        self.looks = Looks(rhythm.patience)
        self._planned: int | None = None
        self._untold, self._clock = 0, 0.0

    @property
    @abstractmethod
    def epoch(self) -> float:
        """How often all rows were seen."""

    @property
    def part(self) -> int:
        """The part of the run that `step` is in; at the end of each stands a look at held-out rows."""
        return int(self.epoch)

    @property
    def rate(self) -> float:
        """The learning rate of the step after `step` finished ones."""
        return self._rhythm.learning_rate * self._schedule.factor(self.step)

    @property
    def trainable_parameters(self) -> int:
        return sum(p.numel() for p in self._weights.values())

    @abstractmethod
    def one_step(self) -> int:
        """Learn from the next batch; the tokens of it."""

    @abstractmethod
    def report(self, seconds: float) -> dict[str, float]:
        """Means since the last report, which was `seconds` ago: the figures of training, `train_loss` first."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Figures of held-out rows, `valid_loss` among them. Raises Stopped when asked to stop."""

    def write_beside(self, folder: Path) -> None:  # noqa: B027 - some runs need nothing else
        """Put into a checkpoint's folder what a later run needs besides weights."""

    def train(self) -> None:
        """Run to the end of the schedule or of patience; the model then has the weights that are kept.

        Raises Stopped at a step boundary when asked to stop, behind a checkpoint unless the run is cancelled.
        """
        schedule, every, epoch_start = self._schedule, self._rhythm.checkpoint_every, time.time_ns()
        self._untold, self._clock = 0, time.perf_counter()
        if self.owes_validation:
            self._look()
        while self.step < schedule.total:
            if self._run.stop_reason:
                self._leave()
            part = self.part
            self._optimize()
            if schedule.after_step(self.step):
                self._run.event(f"cut to {schedule.total} steps to stay within max_seconds", "warn")
            last = self.step >= schedule.total
            boundary = self.part > part or last
            due = self.step % every == 0 and not last
            if boundary:
                self._run.span("epoch", epoch_start, {"epoch": self.epoch, "step": self.step})
                epoch_start = time.time_ns()
            if last or due or schedule.logs_at(self.step, self._rhythm.log_every):
                self._tell()
            if boundary and self._watched:
                self._look()
            if due and self.step < schedule.total:
                self._save()
        if self.owes_validation:
            self._leave()
        self._take_best()

    def _optimize(self) -> None:
        tokens = self.one_step()
        self.step += 1
        self.trained_tokens += tokens
        self._untold += 1

    def _tell(self) -> None:
        data = {
            **self.report(time.perf_counter() - self._clock),
            "learning_rate": self._rhythm.learning_rate * self._schedule.factor(self.step - 1),
            "epoch": self.epoch,
            "total_steps": self._schedule.total,
        }
        self._untold, self._clock = 0, time.perf_counter()
        self.last_metrics |= data
        self._run.metrics(self.step, data)
        self._run.progress(self.step, self._schedule.total)

    def _look(self) -> None:
        """Measure held-out rows, keep the weights if these are the best so far, and end the run if patience has."""
        self.owes_validation = True
        began = time.perf_counter()
        with self._run.timed("eval", step=self.step):
            try:
                figures = self.validate()
            except Stopped:
                # The loop leaves at its next step, with a checkpoint.
                return
        self._clock += time.perf_counter() - began
        self.owes_validation = False
        best = self.looks.add(self.step, figures)
        ends = self.looks.over and self.step < self._schedule.total
        if ends:
            self._planned, self._schedule.total = self._schedule.total, self.step
        self.last_metrics |= {**figures, "total_steps": self._schedule.total}
        self._run.metrics(self.step, self.last_metrics)
        if best and self._rhythm.keep_best:
            self._write_weights(self._store.root / _BEST)
        if ends:
            self._end_early()

    def _end_early(self) -> None:
        assert self._planned is not None
        told = {"step": self.step, "best_step": self.looks.step, "planned_steps": self._planned}
        self._run.event(self.looks.why(self.step, self._planned), data=told)
        if self._untold:
            self._tell()
        else:
            self._run.progress(self.step, self._schedule.total)

    def _take_best(self) -> None:
        best = self.best_step
        if best is None or best == self.step:
            return
        self._read_weights(self._store.root / _BEST)
        self.last_metrics |= self.looks.figures
        self._run.event(
            f"keeps the weights of step {best}, where valid_loss was the lowest", data={"best_step": best}
        )

    @property
    def best_step(self) -> int | None:
        """The step whose weights are kept; None where they are the last ones, whatever they are worth."""
        return self.looks.step if self._rhythm.keep_best else None

    @property
    def ends(self) -> dict[str, Any]:
        """How far the run went, for its result."""
        told = {"steps": self.step, "planned_steps": self._planned, "best_step": self.best_step}
        return {name: value for name, value in told.items() if value is not None}

    def _leave(self) -> NoReturn:
        reason = self._run.stop_reason or "drain"
        if reason != "cancel" and self.step > 0:
            if self._untold:
                self._tell()
            self._save()
        raise Stopped(reason, self.step)

    def _save(self) -> None:
        """Write a whole checkpoint and tell of it. OSError when the disk refuses."""
        with self._run.timed("checkpoint", step=self.step):
            made = self._store.write(self.step, self._fill, self.last_metrics)
        self._run.checkpoint(self.step, str(made.path), made.manifest_sha256, made.metrics)

    def _fill(self, folder: Path) -> None:
        self._write_weights(folder / self.weights_file)
        self.write_beside(folder)
        if self.best_step not in (None, self.step):
            shutil.copyfile(self._store.root / _BEST, folder / _BEST)
        state: dict[str, Any] = {
            "step": self.step,
            "trained_tokens": self.trained_tokens,
            "owes_validation": self.owes_validation,
            "looks": self.looks.state(),
            "schedule": self._schedule.state(),
            "optimizer": self._optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        torch.save(state, folder / _STATE)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue exactly where `checkpoint` (already verified) was written."""
        self._read_weights(checkpoint.path / self.weights_file)
        state = torch.load(checkpoint.path / _STATE, weights_only=True, map_location="cpu")
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.restore(state["schedule"])
        self.step, self.trained_tokens = state["step"], state["trained_tokens"]
        # Checkpoints of earlier releases do not say.
        self.owes_validation = state.get("owes_validation", False)
        if "looks" in state:
            self.looks.restore(state["looks"])
        if self.best_step is not None:
            best = self.weights_file if self.best_step == self.step else _BEST
            shutil.copyfile(checkpoint.path / best, self._store.root / _BEST)
        self.last_metrics = dict(checkpoint.metrics)
        torch.set_rng_state(state["rng"])
        # Encoders wrote none before they had this loop.
        if state.get("cuda_rng"):
            torch.cuda.set_rng_state_all(state["cuda_rng"])

    def _write_weights(self, file: Path) -> None:
        save_file({name: p.detach().cpu().contiguous() for name, p in self._weights.items()}, file)

    def _read_weights(self, file: Path) -> None:
        for name, value in load_file(file).items():
            self._weights[name].data.copy_(value)
