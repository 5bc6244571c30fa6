"""What TRL's trainers get of ours: schedule, frames, stop requests and atomic checkpoints. Knows no files of rows."""

# ruff: noqa: ARG002 - the signatures are those of transformers' and TRL's hooks

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState

from services.training import world
from services.training.devices import peak_resident_bytes
from services.training.run import STOP_REASONS, Run
from services.training.tuning.plan import STATE, Plan
from shared.contracts.generation_config import FILE as GENERATION_CONFIG

_FULL = ("valid_loss", "valid_mean_token_accuracy")


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

    def ready(self) -> None:
        """The model is where it is trained, and has not made a step."""

    def train(self, resume_from_checkpoint: Path | None = None) -> None:
        """To the end, or to where it is `left`; the model is then as the last step made it."""
        source = str(resume_from_checkpoint) if resume_from_checkpoint else None
        with contextlib.suppress(_AtItsEnd):
            super().train(resume_from_checkpoint=source)

    def keep(self) -> None:
        """Give the model the weights that are to be kept, after the last step."""
        looks, best = self.plan.looks, self.plan.best
        if best is not None and looks.step not in (None, self.state.global_step):
            best.give(self.model)
            self.plan.run.event(
                f"keeps the weights of step {looks.step}, where valid_loss was the lowest",
                data={"best_step": looks.step},
            )

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
        if self.plan.best is not None:
            self.plan.best.join(folder)
        if self.plan.samples is not None:
            self.plan.samples(self.model, self.state.global_step)
        if not (folder / GENERATION_CONFIG).exists():
            # An adapter's checkpoint may be served: it ends and decodes as the adapter will.
            made = self.accelerator.unwrap_model(self.model)
            made.generation_config.to_json_file(folder / GENERATION_CONFIG)
        (folder / STATE).write_text(json.dumps(self.plan.state()), encoding="utf-8")


class _AtItsEnd(Exception):
    """A run that goes on has no step left: the trainer would make one before it looks."""


def wished(run: Run) -> str | None:
    """Why to stop now: what the first of the run's processes knows, in all of them."""
    (wish,) = world.agreed([STOP_REASONS.index(run.stop_reason) + 1 if run.stop_reason else 0])
    if not wish:
        return None
    if world.rank() > 0:
        run.request_stop(STOP_REASONS[wish - 1])
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
        if world.size() > 1:
            self._trainer.plan.run.event(
                f"the model is shared out over {world.size()} processes",
                data={"peak_resident_bytes": peak_resident_bytes()},
            )
        self._trainer.ready()
        if self._trainer.plan.owes_validation:
            self._trainer.plan.owes_validation = False
            self._trainer.evaluate()
        if state.global_step >= self._trainer.plan.schedule.total:
            raise _AtItsEnd

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        plan, step = self._trainer.plan, state.global_step
        if world.rank() == 0 and plan.schedule.after_step(step):
            plan.run.event(f"cut to {plan.schedule.total} steps to stay within max_seconds", "warn")
        (plan.schedule.total,) = world.agreed([plan.schedule.total])
        wish = wished(plan.run)
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

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        plan, step = self._trainer.plan, state.global_step
        if step >= plan.schedule.total and plan.planned is not None:
            # What was not told yet of the last steps is told behind the loop.
            control.should_log = control.should_training_stop = True
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
            found = world.told(data)
            if plan.look(step, found) and plan.best is not None:
                plan.best.take(self._trainer.model)
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
