"""What TRL's trainers get of ours: schedule, frames, stop requests and atomic checkpoints. Knows no files of rows."""

# ruff: noqa: ARG002 - the signatures are those of transformers' and TRL's hooks

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState

from services.training import world
from services.training.checkpoint import CheckpointStore
from services.training.plan import Schedule
from services.training.run import STOP_REASONS, Run
from shared.contracts.generation_config import FILE as GENERATION_CONFIG

_FULL = ("valid_loss", "valid_mean_token_accuracy")


@dataclass
class Plan:
    """What the trainer follows: rows of all epochs in order, and when to log, check and save.

    `counts` are how many sequences each row holds where that is not one; `kept` stands in each checkpoint; `whole` says
    that the rows which are watched are all that are held out; `owes_validation` that a stop came before the look at
    them which the last step is due.
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
    whole: bool = False
    owes_validation: bool = False

    def epoch(self, step: int) -> float:
        rows = min(step * self.batch_size, len(self.rows))
        return (rows if self.counts is None else int(self.counts[:rows].sum())) / self.rows_per_epoch

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, for `restore`."""
        return {**self.schedule.state(), "kept": self.kept, "owes_validation": self.owes_validation}

    def restore(self, state: dict[str, Any]) -> None:
        self.schedule.restore(state)
        # Checkpoints of earlier releases do not say.
        self.owes_validation = state.get("owes_validation", False)

    def tokens_of(self, step: int) -> int:
        """Tokens seen in the first `step` steps, padding left out."""
        return int(self.lengths[: step * self.batch_size].sum())


class Reporting(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """Goes before one of TRL's trainers among a class's bases: one pass over rows that are already in order.

    `left` is True when it ended on a stop request.
    """

    # Of TRL's running means, those that are told: our name by theirs.
    told: ClassVar[dict[str, str]] = {"mean_token_accuracy": "mean_token_accuracy"}
    lr_scheduler: Any
    control: Any

    def __init__(self, *, plan: Plan, **arguments: Any) -> None:
        self.plan = plan
        self.left = False
        super().__init__(callbacks=[_Conductor(self)], **arguments)
        self.remove_callback(PrinterCallback)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The project's curve instead of a named one, because a time budget may shorten it."""
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, self.plan.schedule.factor
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add TRL's running means to `logs` and keep them; nothing is written or printed."""
        mode = "train" if self.model.training else "eval"
        logs |= {f"{mode}_{name}": sum(v) / len(v) for name, v in self._metrics[mode].items()}
        self._metrics[mode].clear()
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def figures(self, logs: dict[str, float], mode: str, name: str) -> dict[str, float]:
        """What `logs` hold of `told`, as `name`_..."""
        return {f"{name}_{ours}": logs[f"{mode}_{theirs}"] for theirs, ours in self.told.items()}

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        with self.plan.run.timed("eval", step=self.state.global_step):
            found: dict[str, float] = super().evaluate(*arguments, **named)
        return found

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """No card: the platform keeps the lineage."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        plan = self.plan
        step = self.state.global_step
        if world.rank() > 0:
            # Its share goes into the same folder, which the first process seals.
            world.together()
            super()._save_checkpoint(model, trial)
            world.together()
        else:
            assert plan.store is not None
            with plan.run.timed("checkpoint", step=step):
                made = plan.store.write(
                    step, lambda folder: self._fill(folder, model, trial), plan.last_metrics
                )
            plan.run.checkpoint(step, str(made.path), made.manifest_sha256, made.metrics)
        world.together()

    def _fill(self, folder: Path, model: Any, trial: Any) -> None:
        aside = Path(self.args.output_dir)
        shutil.rmtree(aside, ignore_errors=True)
        world.together()
        super()._save_checkpoint(model, trial)
        world.together()
        for path in (aside / f"checkpoint-{self.state.global_step}").iterdir():
            # A pickle of the arguments and a card: neither is needed, and one can run code.
            if path.name not in ("training_args.bin", "README.md"):
                shutil.move(path, folder / path.name)
        shutil.rmtree(aside)
        if not (folder / GENERATION_CONFIG).exists():
            # An adapter's checkpoint may be served: it ends and decodes as the adapter will.
            made = self.accelerator.unwrap_model(self.model)
            made.generation_config.to_json_file(folder / GENERATION_CONFIG)
        (folder / "plan.json").write_text(json.dumps(self.plan.state()), encoding="utf-8")


def _agree(plan: Plan) -> str | None:
    """Why to stop now, and how long the run is: what the first of its processes knows, in all of them."""
    wish = STOP_REASONS.index(plan.run.stop_reason) + 1 if plan.run.stop_reason else 0
    plan.schedule.total, wish = world.agreed([plan.schedule.total, wish])
    if not wish:
        return None
    if world.rank() > 0:
        plan.run.request_stop(STOP_REASONS[wish - 1])
    return STOP_REASONS[wish - 1]


class _Conductor(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Decides at each step boundary what the trainer does next, and turns its logs into frames."""

    def __init__(self, trainer: Reporting) -> None:
        self._trainer = trainer
        self._clock = 0.0
        self._epoch_start = 0
        self._logged_step = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._clock, self._epoch_start = time.perf_counter(), time.time_ns()
        self._logged_step = state.global_step
        if self._trainer.plan.owes_validation:
            self._trainer.plan.owes_validation = False
            self._trainer.evaluate()
        if state.global_step >= self._trainer.plan.schedule.total:
            control.should_training_stop = True

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        plan, step = self._trainer.plan, state.global_step
        if world.rank() == 0 and plan.schedule.after_step(step):
            plan.run.event(f"cut to {plan.schedule.total} steps to stay within max_seconds", "warn")
        wish = _agree(plan)
        last = step >= plan.schedule.total
        boundary = int(plan.epoch(step)) > int(plan.epoch(step - 1)) or last
        due = step % plan.checkpoint_every == 0 and not last
        stop = None if last else wish
        if boundary:
            plan.run.span("epoch", self._epoch_start, {"epoch": plan.epoch(step), "step": step})
            self._epoch_start = time.time_ns()
        # A checkpoint's figures are those of its own step.
        look = (boundary or due) and self._trainer.eval_dataset is not None
        # Who asks for the worker does not wait for a look at held-out rows: the run that goes on begins with it.
        control.should_evaluate, plan.owes_validation = look and stop is None, look and stop is not None
        control.should_log = last or due or stop is not None or plan.schedule.logs_at(step, plan.log_every)
        control.should_save = (due or stop is not None) and stop != "cancel"
        control.should_training_stop = last or stop is not None
        self._trainer.left = stop is not None
        return control

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        plan, step = self._trainer.plan, state.global_step
        control.should_log = False
        if "eval_loss" in logs:
            data = {"valid_loss": logs["eval_loss"], **self._trainer.figures(logs, "eval", "valid")}
            if plan.whole:
                # As OpenAI has it: `valid_` is of some held-out rows, `full_valid_` of all.
                data |= {f"full_{name}": data[name] for name in _FULL if name in data}
        elif "loss" in logs:
            now = time.perf_counter()
            seen = plan.tokens_of(step) - plan.tokens_of(self._logged_step)
            data = {
                "train_loss": logs["loss"],
                **self._trainer.figures(logs, "train", "train"),
                "learning_rate": logs["learning_rate"],
                "tokens_per_second": seen / max(1e-9, now - self._clock),
                "epoch": plan.epoch(step),
                "total_steps": plan.schedule.total,
            }
            self._clock, self._logged_step = now, step
            plan.run.progress(step, plan.schedule.total)
        else:
            return
        plan.last_metrics = plan.last_metrics | data
        plan.run.metrics(step, plan.last_metrics if "valid_loss" in data else data)
