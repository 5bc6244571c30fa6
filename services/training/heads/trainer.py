"""The loop that trains a head: ordered batches, one optimizer, checkpoints that resume bitwise. Knows no files."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from services.training.checkpoint import CheckpointStore
from services.training.heads.losses import Loss
from services.training.heads.model import HeadModel
from services.training.heads.pace import Pace
from services.training.heads.rows import Rows
from services.training.heads.scoring import Yardstick
from services.training.loop import Loop
from services.training.run import Run, Stopped

# Held-out rows that are looked at after each epoch; all of them count at the end.
WATCHED = 512
EVALUATED_AT_ONCE = 64
_WEIGHTS = "trainable.safetensors"


@dataclass
class _Tally:
    loss: float = 0.0
    tokens: int = 0
    steps: int = 0
    started: float = field(default_factory=time.perf_counter)


class HeadTrainer(Loop):
    """One run. `train` raises Stopped at a step boundary when asked to."""

    def __init__(
        self,
        run: Run,
        model: HeadModel,
        training: Rows,
        held_out: Rows,
        loss: Loss,
        yardstick: Yardstick,
        pace: Pace,
        store: CheckpointStore,
        scale: tuple[float, float],
    ) -> None:
        """`scale` is (factor, shift) from logits to what is measured."""
        self._model, self._training, self._held_out = model, training, held_out
        self._loss, self._yardstick, self._pace, self._scale = loss, yardstick, pace, scale
        self._trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        layer = [p for name, p in self._trainable.items() if name.startswith("layer.")]
        body = [p for name, p in self._trainable.items() if not name.startswith("layer.")]
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
        return min(self.step * self._pace.batch_size, len(self._pace.rows)) / len(self._training)

    def train(self) -> None:
        schedule, tally, epoch_start = self._pace.schedule, _Tally(), time.time_ns()
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
            if boundary:
                self._watch()
            if due:
                self.save()

    def _one_step(self, tally: _Tally) -> None:
        pace = self._pace
        start = self.step * pace.batch_size
        chosen = pace.rows[start : start + pace.batch_size]
        for group in self._optimizer.param_groups:
            group["lr"] = pace.learning_rate * group["factor"] * pace.schedule.factor(self.step)
        self._model.train()
        loss = self._loss(self._logits(self._training, chosen), self._training.targets[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._trainable.values(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        count = sum(len(one.ids) for i in chosen for one in self._training.encodings[i])
        self.trained_tokens += count
        tally.loss += loss.item()
        tally.tokens += count
        tally.steps += 1

    def _logits(self, rows: Rows, chosen: npt.NDArray[np.int64]) -> torch.Tensor:
        """(rows, outputs); of pairs (rows, 2)."""
        if rows.features is not None:
            logits = self._model.of_features(rows.features[chosen].flatten(0, 1))
        else:
            logits = self._model([one for i in chosen for one in rows.encodings[i]])
        return logits.view(len(chosen), -1)

    def evaluate(self, most: int | None = None) -> tuple[dict[str, float], float]:
        """(figures, loss) over the held-out rows, or the first `most` of them."""
        rows = self._held_out
        count = len(rows) if most is None else min(most, len(rows))
        # Like lengths together, so that little is padded.
        order = np.argsort(rows.lengths[:count], kind="stable")
        found: list[torch.Tensor] = []
        with torch.no_grad():
            self._model.eval()
            for start in range(0, count, EVALUATED_AT_ONCE):
                if self._run.stop_reason:
                    raise Stopped(self._run.stop_reason, self.step)
                found.append(self._logits(rows, order[start : start + EVALUATED_AT_ONCE]))
        logits = torch.cat(found)[torch.from_numpy(np.argsort(order))]
        loss = float(self._loss(logits, rows.targets[:count]))
        scaled = logits.double().cpu().numpy() * self._scale[0] + self._scale[1]
        return self._yardstick.score(rows.examples[:count], scaled), loss

    def _watch(self) -> None:
        with self._run.timed("eval", step=self.step):
            try:
                figures, loss = self.evaluate(WATCHED)
            except Stopped:
                # The loop leaves at its next step, with a checkpoint.
                return
        self.last_metrics |= {
            "valid_loss": loss,
            **{f"valid_{name}": value for name, value in figures.items()},
        }
        self._run.metrics(self.step, self.last_metrics)

    def _report(self, tally: _Tally) -> None:
        data = {
            "train_loss": tally.loss / tally.steps,
            "learning_rate": self._pace.learning_rate * self._pace.schedule.factor(self.step - 1),
            "tokens_per_second": tally.tokens / (time.perf_counter() - tally.started),
            "epoch": self.epoch,
            "total_steps": self._pace.schedule.total,
        }
        self.last_metrics |= data
        self._run.metrics(self.step, data)
        self._run.progress(self.step, self._pace.schedule.total)

    def write_weights(self, folder: Path) -> None:
        weights = {name: p.detach().cpu().contiguous() for name, p in self._trainable.items()}
        save_file(weights, folder / _WEIGHTS)
        self._model.trunk.tokenizer.save_pretrained(folder)

    def read_weights(self, folder: Path) -> None:
        for name, value in load_file(folder / _WEIGHTS).items():
            self._trainable[name].data.copy_(value)
