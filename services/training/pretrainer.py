"""The loop that trains a causal model on texts: length-bucketed batches, next-token loss on every token. Knows no files
of rows and no tokenizer's making.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from services.training.checkpoint import CheckpointStore
from services.training.loop import Loop
from services.training.losses import collate, micro_batches, next_token_loss, splits
from services.training.muon import MuonAdamW
from services.training.plan import Schedule
from services.training.run import Run, Stopped

Documents = Sequence[npt.NDArray[np.int32]]
_WEIGHTS = "trainable.safetensors"


@dataclass(frozen=True)
class Pace:
    """How long and how fast: `rows` are all epochs' row numbers in order."""

    rows: npt.NDArray[np.int64]
    batch_size: int
    schedule: Schedule
    learning_rate: float
    checkpoint_every: int
    log_every: int


@dataclass
class _Tally:
    """Sums since the last metrics frame."""

    loss: float = 0.0
    correct: int = 0
    tokens: int = 0
    steps: int = 0
    started: float = field(default_factory=time.perf_counter)


class GentleAdamW(torch.optim.AdamW):
    """AdamW with the one knob that the loop turns, for weights that know something already."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        super().__init__(parameters, lr=0.0, betas=(0.9, 0.95), weight_decay=0.01)

    def set_rate(self, rate: float) -> None:
        for group in self.param_groups:
            group["lr"] = rate


class Pretrainer(Loop):
    """One run. `train` raises Stopped at a step boundary when asked to."""

    def __init__(
        self,
        run: Run,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        documents: Documents,
        held_out: Documents,
        pace: Pace,
        store: CheckpointStore,
        *,
        fresh: bool,
    ) -> None:
        """`fresh` weights are trained with Muon, others with AdamW. `model` may wear an adapter: then that is
        trained."""
        self._model, self._tokenizer = model, tokenizer
        self._causal: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._documents, self._held_out, self._pace = documents, held_out, pace
        self._device = next(model.parameters()).device
        self._whole = not splits(self._causal)
        self._trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer: Any
        if fresh:
            optimizer = MuonAdamW(model.named_parameters(), weight_decay=0.05)
        else:
            optimizer = GentleAdamW(list(self._trainable.values()))
        super().__init__(run, pace.schedule, optimizer, store)

    @property
    def trainable_parameters(self) -> int:
        return sum(p.numel() for p in self._trainable.values())

    @property
    def epoch(self) -> float:
        return min(self.step * self._pace.batch_size, len(self._pace.rows)) / len(self._documents)

    def train(self) -> None:
        """Run to the end of the schedule; raises Stopped at a step boundary when asked to."""
        schedule, tally, epoch_start = self._pace.schedule, _Tally(), time.time_ns()
        self._model.train()
        if self.owes_validation:
            self._validate()
        while self.step < schedule.total:
            if self._run.stop_reason:
                self.leave(partial(self._report, tally) if tally.steps else None)
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
            if boundary and self._held_out:
                self._validate()
            if due:
                self.save()

    def _one_step(self, tally: _Tally) -> None:
        pace = self._pace
        start = self.step * pace.batch_size
        chosen = [self._documents[i] for i in pace.rows[start : start + pace.batch_size]]
        count = sum(len(d) - 1 for d in chosen)
        self._optimizer.set_rate(pace.learning_rate * pace.schedule.factor(self.step))
        loss, correct = 0.0, 0
        for part in micro_batches(chosen):
            part_loss, right, _ = self._loss(part)
            (part_loss / count).backward()  # type: ignore[no-untyped-call]
            loss, correct = loss + part_loss.item(), correct + right
        torch.nn.utils.clip_grad_norm_(self._trainable.values(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        self.trained_tokens += count
        tally.loss += loss / count
        tally.correct += correct
        tally.tokens += count
        tally.steps += 1

    def _loss(self, documents: Documents) -> tuple[torch.Tensor, int, int]:
        ids, labels = collate(documents, self._tokenizer.pad_token_id, self._device)
        return next_token_loss(self._causal, ids, labels, whole=self._whole)

    def _report(self, tally: _Tally) -> None:
        seconds = time.perf_counter() - tally.started
        data = {
            "train_loss": tally.loss / tally.steps,
            "train_mean_token_accuracy": tally.correct / max(1, tally.tokens),
            "learning_rate": self._pace.learning_rate * self._pace.schedule.factor(self.step - 1),
            "tokens_per_second": tally.tokens / seconds,
            "epoch": self.epoch,
            "total_steps": self._pace.schedule.total,
        }
        self.last_metrics = self.last_metrics | data
        self._run.metrics(self.step, data)
        self._run.progress(self.step, self._pace.schedule.total)

    def evaluate(self) -> tuple[float, float, int]:
        """(loss a token, share of tokens guessed right, tokens) of the held-out texts. Raises Stopped."""
        training = self._model.training
        self._model.eval()
        loss, correct, count = 0.0, 0, 0
        with torch.no_grad():
            for documents in micro_batches(self._held_out):
                if self._run.stop_reason:
                    raise Stopped(self._run.stop_reason, self.step)
                part_loss, right, number = self._loss(documents)
                loss, correct, count = loss + part_loss.item(), correct + right, count + number
        self._model.train(training)
        return loss / count, correct / count, count

    def _validate(self) -> None:
        self.owes_validation = True
        with self._run.timed("eval", step=self.step):
            try:
                loss, accuracy, _ = self.evaluate()
            except Stopped:
                # The loop leaves at its next step, with a checkpoint.
                self._model.train()
                return
        self.owes_validation = False
        self.last_metrics = self.last_metrics | {
            "valid_loss": loss,
            "valid_mean_token_accuracy": accuracy,
        }
        self._run.metrics(self.step, self.last_metrics)

    def write_weights(self, folder: Path) -> None:
        weights = {name: p.detach().cpu().contiguous() for name, p in self._trainable.items()}
        save_file(weights, folder / _WEIGHTS)
        self._tokenizer.save_pretrained(folder)

    def read_weights(self, folder: Path) -> None:
        for name, value in load_file(folder / _WEIGHTS).items():
            self._trainable[name].data.copy_(value)
