"""The loop that trains heads on a trunk: ordered batches, one optimizer, checkpoints that resume bitwise. Knows no
files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from services.training.checkpoint import CheckpointStore
from services.training.heads.pace import Pace
from services.training.heads.part import Part
from services.training.loop import Loop
from services.training.run import Run, Stopped

# Held-out rows of each part that are looked at after each epoch; all of them count at the end.
WATCHED = 512
_WEIGHTS = "trainable.safetensors"


@dataclass
class _Tally:
    """Since the last report: losses by the number of their part, and tokens."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    tokens: int = 0
    started: float = field(default_factory=time.perf_counter)


class HeadTrainer(Loop):
    """One run of one part, or of several on one trunk. `train` raises Stopped at a step boundary when asked to."""

    def __init__(self, run: Run, parts: Sequence[Part], pace: Pace, store: CheckpointStore) -> None:
        self._parts, self._pace = parts, pace
        models = [part.model for part in parts]
        self._model = models[0] if len(models) == 1 else nn.ModuleList(models)
        self._trainable = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        last = {id(p) for model in models for p in model.layer.parameters()}
        layer = [p for p in self._trainable.values() if id(p) in last]
        body = [p for p in self._trainable.values() if id(p) not in last]
        groups = [{"params": layer, "factor": pace.layer_factor}, {"params": body, "factor": 1.0}]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], weight_decay=pace.weight_decay
        )
        super().__init__(run, pace.schedule, optimizer, store)

    @property
    def trainable_parameters(self) -> int:
        return sum(p.numel() for p in self._trainable.values())

    @property
    def epoch(self) -> float:
        return self._pace.seen(self.step) / sum(len(part.training) for part in self._parts)

    def train(self) -> None:
        schedule, tally, epoch_start = self._pace.schedule, _Tally(), time.time_ns()
        if self.owes_validation:
            self._watch()
        while self.step < schedule.total:
            if self._run.stop_reason:
                self.leave(partial(self._report, tally) if tally.losses else None)
            before = int(self.epoch)
            self._one_step(tally)
            if schedule.after_step(self.step):
                self._run.event(f"cut to {schedule.total} steps to stay within max_seconds", "warn")
            last = self.step >= schedule.total
            boundary = int(self.epoch) > before or last
            due = self.step % self._pace.checkpoint_every == 0 and not last
            if boundary:
                self._run.span("epoch", epoch_start, {"epoch": self.epoch, "step": self.step})
                epoch_start = time.time_ns()
            if last or due or schedule.logs_at(self.step, self._pace.log_every):
                self._report(tally)
                tally = _Tally()
            if boundary:
                self._watch()
            if due:
                self.save()

    def _one_step(self, tally: _Tally) -> None:
        pace = self._pace
        number, chosen = pace.batch(self.step)
        part = self._parts[number]
        for group in self._optimizer.param_groups:
            group["lr"] = pace.learning_rate * group["factor"] * pace.schedule.factor(self.step)
        self._model.train()
        loss = part.loss_of(chosen)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._trainable.values(), 1.0)
        if part.weight != 1:
            # Behind the clipping, which would level the weights of tasks out again.
            for parameter in self._trainable.values():
                if parameter.grad is not None:
                    parameter.grad.mul_(part.weight)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        count = part.tokens_of(chosen)
        self.trained_tokens += count
        tally.losses.append((number, loss.item()))
        tally.tokens += count

    def _watch(self) -> None:
        losses: list[float] = []
        self.owes_validation = True
        with self._run.timed("eval", step=self.step):
            for part in self._parts:
                try:
                    figures, loss = part.evaluate(self._run, self.step, WATCHED)
                except Stopped:
                    # The loop leaves at its next step, with a checkpoint.
                    return
                losses.append(loss * part.weight)
                told = {"loss": loss, **figures}
                self.last_metrics |= {_named(part, f"valid_{name}"): value for name, value in told.items()}
        self.owes_validation = False
        # The parts' weights say what counts; with one part this is its own loss.
        self.last_metrics["valid_loss"] = sum(losses) / sum(part.weight for part in self._parts)
        self._run.metrics(self.step, self.last_metrics)

    def _report(self, tally: _Tally) -> None:
        data = {
            "train_loss": float(np.mean([loss for _, loss in tally.losses])),
            "learning_rate": self._pace.learning_rate * self._pace.schedule.factor(self.step - 1),
            "tokens_per_second": tally.tokens / (time.perf_counter() - tally.started),
            "epoch": self.epoch,
            "total_steps": self._pace.schedule.total,
        }
        for number, part in enumerate(self._parts):
            own = [loss for of, loss in tally.losses if of == number]
            if part.name and own:
                data[_named(part, "train_loss")] = float(np.mean(own))
        self.last_metrics |= data
        self._run.metrics(self.step, data)
        self._run.progress(self.step, self._pace.schedule.total)

    def write_weights(self, folder: Path) -> None:
        weights = {name: p.detach().cpu().contiguous() for name, p in self._trainable.items()}
        save_file(weights, folder / _WEIGHTS)
        self._parts[0].model.trunk.tokenizer.save_pretrained(folder)

    def read_weights(self, folder: Path) -> None:
        for name, value in load_file(folder / _WEIGHTS).items():
            self._trainable[name].data.copy_(value)


def _named(part: Part, metric: str) -> str:
    """`intent/valid_loss` of a part with a name, else the metric alone."""
    return f"{part.name}/{metric}" if part.name else metric
