"""What TRL's trainers follow: rows of all epochs in order, and when to log, look and save."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from services.training import world
from services.training.checkpoint import Checkpoint, CheckpointStore
from services.training.early_stopping import Looks
from services.training.hyperparameters import Steps
from services.training.plan import Schedule
from services.training.run import Run
from services.training.spec import Spec
from services.training.tuning.best import BestWeights

STATE = "plan.json"


def state_of(resumed: Checkpoint | None) -> dict[str, Any]:
    """What `Plan.state` left in the checkpoint that a run goes on from; nothing of one that begins."""
    if resumed is None:
        return {}
    found: dict[str, Any] = json.loads((resumed.path / STATE).read_text(encoding="utf-8"))
    return found


@dataclass
class Plan:
    """`counts` are how many sequences each row holds where that is not one; `kept` stands in each checkpoint; `whole`
    says that the rows which are watched are all that are held out; `owes_validation` that a stop came before the look
    at them which the last step is due. `best` is where the weights of the best look are kept, if they are; `planned`
    is how many steps there were to be of a run that ended early. `samples` leaves beside a checkpoint, by model and
    step, what the engine is held against.
    """

    run: Run
    schedule: Schedule
    rows: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    batch_size: int
    rows_per_epoch: int
    checkpoint_every: int
    log_every: int
    store: CheckpointStore | None = None
    last_metrics: dict[str, float] = field(default_factory=dict)
    counts: npt.NDArray[np.int64] | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    looks: Looks = field(default_factory=Looks)
    best: BestWeights | None = None
    samples: Callable[[Any, int], None] | None = None
    planned: int | None = None
    whole: bool = False
    owes_validation: bool = False

    def keep(
        self, spec: Spec, wanted: Steps, mark: str, resumed: Checkpoint | None, *, watched: bool
    ) -> None:
        """Say where checkpoints go, by the run's fingerprint, how long looks are waited for, and whether the best
        weights are kept; `watched` is whether there are held-out rows."""
        self.looks.patience = wanted.early_stopping_patience
        if watched and wanted.keep_best is not False:
            self.best = BestWeights(spec.workdir, resumed.path if resumed else None)
        if world.rank() == 0:
            self.store = CheckpointStore(spec.workdir / "checkpoints", mark, resumed=spec.resume_from)

    def epoch(self, step: int) -> float:
        rows = min(step * self.batch_size, len(self.rows))
        return (rows if self.counts is None else int(self.counts[:rows].sum())) / self.rows_per_epoch

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, for `restore`."""
        return {
            **self.schedule.state(),
            "kept": self.kept,
            "owes_validation": self.owes_validation,
            "looks": self.looks.state(),
            "planned": self.planned,
        }

    def restore(self, state: dict[str, Any], metrics: Mapping[str, float]) -> None:
        """`metrics` are the figures of the checkpoint."""
        self.schedule.restore(state)
        self.last_metrics = dict(metrics)
        # Checkpoints of earlier releases do not say.
        self.owes_validation = state.get("owes_validation", False)
        if "looks" in state:
            self.looks.restore(state["looks"])
            self.planned = state["planned"]

    def tokens_of(self, step: int) -> int:
        """Tokens seen in the first `step` steps, padding left out."""
        return int(self.lengths[: step * self.batch_size].sum())

    def look(self, step: int, found: dict[str, float]) -> bool:
        """Whether no look at held-out rows before was as good; ends the run where patience does."""
        better = self.looks.add(step, found)
        if self.looks.over and step < self.schedule.total:
            self.planned, self.schedule.total = self.schedule.total, step
            told = {"step": step, "best_step": self.looks.step, "planned_steps": self.planned}
            self.run.event(self.looks.why(step, self.planned), data=told)
            self.run.progress(step, step)
        return better

    @property
    def ends(self) -> dict[str, Any]:
        """How far the run went and whose weights it kept, for its result, behind what the last look found."""
        kept = {} if self.best is None else {**self.looks.figures, "best_step": self.looks.step}
        return {**kept, **({} if self.planned is None else {"planned_steps": self.planned})}
