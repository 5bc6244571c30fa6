"""What the project's own training loops share: how they leave at a step boundary, save, and go on bitwise where they
were. Knows no batches and no loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from services.training.checkpoint import Checkpoint, CheckpointStore
from services.training.plan import Schedule
from services.training.run import Run, Stopped

_STATE = "trainer_state.pt"


class Loop(ABC):
    """Where a run is: `step` finished steps, the tokens of them, and the figures told last."""

    def __init__(self, run: Run, schedule: Schedule, optimizer: Any, store: CheckpointStore) -> None:
        """`optimizer` is anything with torch's `state_dict` and `load_state_dict`."""
        self._run, self._schedule, self._optimizer, self._store = run, schedule, optimizer, store
        self.step = 0
        self.trained_tokens = 0
        self.last_metrics: dict[str, float] = {}
        # A stop cut short the look at held-out rows which this step is due.
        self.owes_validation = False

    @abstractmethod
    def write_weights(self, folder: Path) -> None:
        """Put what is trained, and what else a later run needs, into a checkpoint's folder."""

    @abstractmethod
    def read_weights(self, folder: Path) -> None:
        """Take over what `write_weights` put there."""

    def leave(self, tell: Callable[[], None] | None = None) -> NoReturn:
        """Raise Stopped, behind a checkpoint unless the run is cancelled; `tell` reports what was not told yet."""
        reason = self._run.stop_reason or "drain"
        if reason != "cancel" and self.step > 0:
            if tell is not None:
                tell()
            self.save()
        raise Stopped(reason, self.step)

    def save(self) -> None:
        """Write a whole checkpoint and tell of it. OSError when the disk refuses."""
        with self._run.timed("checkpoint", step=self.step):
            made = self._store.write(self.step, self._fill, self.last_metrics)
        self._run.checkpoint(self.step, str(made.path), made.manifest_sha256, made.metrics)

    def _fill(self, folder: Path) -> None:
        self.write_weights(folder)
        state: dict[str, Any] = {
            "step": self.step,
            "trained_tokens": self.trained_tokens,
            "owes_validation": self.owes_validation,
            "schedule": self._schedule.state(),
            "optimizer": self._optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        torch.save(state, folder / _STATE)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue exactly where `checkpoint` (already verified) was written."""
        self.read_weights(checkpoint.path)
        state = torch.load(checkpoint.path / _STATE, weights_only=True, map_location="cpu")
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.restore(state["schedule"])
        self.step, self.trained_tokens = state["step"], state["trained_tokens"]
        # Checkpoints of earlier releases do not say.
        self.owes_validation = state.get("owes_validation", False)
        self.last_metrics = dict(checkpoint.metrics)
        torch.set_rng_state(state["rng"])
        # Encoders wrote none before they had this loop.
        if state.get("cuda_rng"):
            torch.cuda.set_rng_state_all(state["cuda_rng"])
