"""The loop that trains an encoder: each text against another of its label, and against all others of the batch.

InfoNCE in both directions (van den Oord et al. 2018, arXiv:1807.03748) with negatives from the batch; two texts of
one label are never each other's negatives. Checkpoints resume bitwise. Knows no files of rows.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from services.training.checkpoint import CheckpointStore
from services.training.encoders.model import EncoderModel
from services.training.loop import Loop
from services.training.plan import Schedule
from services.training.run import Run

_WEIGHTS = "encoder.safetensors"


@dataclass(frozen=True)
class Rows:
    """Tokens of each text, and the number of its label."""

    tokens: list[list[int]]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Pace:
    batch_size: int
    schedule: Schedule
    learning_rate: float
    temperature: float
    checkpoint_every: int
    log_every: int
    seed: int


class EncoderTrainer(Loop):
    """One run. `train` raises Stopped at a step boundary when asked to."""

    def __init__(
        self,
        run: Run,
        model: EncoderModel,
        training: Rows,
        held_out: Rows,
        pace: Pace,
        store: CheckpointStore,
    ) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=pace.learning_rate, weight_decay=0.01)
        super().__init__(run, pace.schedule, optimizer, store)
        self._model, self._pace = model, pace
        self._training, self._held_out = training, held_out
        self._alike: dict[int, list[int]] = defaultdict(list)
        for row, label in enumerate(training.labels):
            self._alike[label].append(row)

    def train(self) -> None:
        pace, losses, began = self._pace, [], time.perf_counter()
        while self.step < pace.schedule.total:
            if self._run.stop_reason:
                self.leave()
            losses.append(self._one_step())
            if pace.schedule.after_step(self.step):
                self._run.event(f"cut to {pace.schedule.total} steps to stay within max_seconds", "warn")
            last = self.step >= pace.schedule.total
            if last or pace.schedule.logs_at(self.step, pace.log_every):
                self._report(losses, time.perf_counter() - began)
                losses, began = [], time.perf_counter()
            if self.step % pace.checkpoint_every == 0 and not last:
                self.save()

    def _one_step(self) -> float:
        pace, schedule = self._pace, self._pace.schedule
        for group in self._optimizer.param_groups:
            group["lr"] = pace.learning_rate * schedule.factor(self.step)
        anchors, positives = self._pairs()
        self._model.train()
        both = [self._training.tokens[row] for row in (*anchors, *positives)]
        vectors = self._model(both)
        likeness = vectors[: len(anchors)] @ vectors[len(anchors) :].T / pace.temperature
        labels = torch.tensor([self._training.labels[row] for row in anchors], device=likeness.device)
        same = (labels[:, None] == labels[None, :]) & ~torch.eye(
            len(anchors), dtype=torch.bool, device=likeness.device
        )
        likeness = likeness.masked_fill(same, -1e4)
        right = torch.arange(len(anchors), device=likeness.device)
        loss = (
            torch.nn.functional.cross_entropy(likeness, right)
            + torch.nn.functional.cross_entropy(likeness.T, right)
        ) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        self.trained_tokens += sum(map(len, both))
        return loss.item()

    def _pairs(self) -> tuple[list[int], list[int]]:
        """Rows of this step and one of the same label for each: decided by seed and step alone.

        A row that is alone with its label is its own positive, and only dropout tells the two apart.
        """
        size, count = self._pace.batch_size, len(self._training)
        each = max(1, count // size)
        epoch, part = divmod(self.step, each)
        order = np.random.default_rng((self._pace.seed, epoch)).permutation(count)
        anchors = [int(row) for row in order[part * size : (part + 1) * size]]
        draw = np.random.default_rng((self._pace.seed, epoch, part))
        return anchors, [self._other(row, draw) for row in anchors]

    def _other(self, row: int, draw: np.random.Generator) -> int:
        alike = self._alike[self._training.labels[row]]
        if len(alike) == 1:
            return row
        other = alike[int(draw.integers(len(alike) - 1))]
        return alike[-1] if other == row else other

    def evaluate(self) -> dict[str, float]:
        """How early the right label comes when the labels are ordered by their most like training text."""
        trained = self._model.vectors(self._training.tokens)
        asked = self._model.vectors(self._held_out.tokens)
        labels = torch.tensor(self._training.labels)
        ranks = [
            _rank(vector @ trained.T, labels, right)
            for vector, right in zip(asked, self._held_out.labels, strict=True)
        ]
        return figures(ranks)

    def _report(self, losses: Sequence[float], seconds: float) -> None:
        self.last_metrics |= {
            "train_loss": float(np.mean(losses)),
            "learning_rate": self._pace.learning_rate * self._pace.schedule.factor(self.step - 1),
            "texts_per_second": 2 * self._pace.batch_size * len(losses) / seconds,
            "total_steps": float(self._pace.schedule.total),
        }
        self._run.metrics(self.step, self.last_metrics)
        self._run.progress(self.step, self._pace.schedule.total)

    def write_weights(self, folder: Path) -> None:
        save_file(
            {name: p.detach().cpu().contiguous() for name, p in self._model.body.named_parameters()},
            folder / _WEIGHTS,
        )

    def read_weights(self, folder: Path) -> None:
        held = dict(self._model.body.named_parameters())
        for name, value in load_file(folder / _WEIGHTS).items():
            held[name].data.copy_(value)


def _rank(likeness: torch.Tensor, labels: torch.Tensor, right: int) -> int:
    """The place of the right label, from 1, among labels by their best text."""
    best = float(likeness[labels == right].max())
    return 1 + len(set(labels[likeness > best].tolist()))


def figures(ranks: Sequence[int]) -> dict[str, float]:
    """Recall at 1 and 5, and the mean reciprocal rank."""
    places = np.array(ranks, dtype=float)
    return {
        "recall_at_1": float((places <= 1).mean()),
        "recall_at_5": float((places <= 5).mean()),
        "mrr": float((1 / places).mean()),
        "rows": float(len(places)),
    }
