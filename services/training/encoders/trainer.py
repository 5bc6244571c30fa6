"""The loop that trains an encoder: each text against another of its label, and against all others of the batch.

InfoNCE in both directions (van den Oord et al. 2018, arXiv:1807.03748) with negatives from the batch; two texts of
one label are never each other's negatives. Checkpoints resume bitwise. Knows no files of rows.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from services.training.checkpoint import CheckpointStore
from services.training.encoders.measure import Rows, drawn, figures, losses, rank
from services.training.encoders.model import EncoderModel
from services.training.loop import Loop
from services.training.plan import Rhythm
from services.training.run import Run, Stopped

# Texts whose vectors are made at once.
_AT_ONCE = 256
# Held-out texts that are looked at on the way, and training texts that they are compared with; all count at the end.
WATCHED, COMPARED = 512, 4096


@dataclass(frozen=True)
class Pace:
    """`each` steps are an epoch; held-out rows are looked at after every `between` steps, a whole number of epochs."""

    batch_size: int
    each: int
    between: int
    rhythm: Rhythm
    temperature: float
    seed: int


class EncoderTrainer(Loop):
    """One run. `train` raises Stopped at a step boundary when asked to."""

    weights_file: ClassVar[str] = "encoder.safetensors"

    def __init__(
        self,
        run: Run,
        model: EncoderModel,
        training: Rows,
        held_out: Rows,
        pace: Pace,
        store: CheckpointStore,
    ) -> None:
        weights = dict(model.body.named_parameters())
        optimizer = torch.optim.AdamW(weights.values(), lr=pace.rhythm.learning_rate, weight_decay=0.01)
        super().__init__(run, weights, optimizer, pace.rhythm, store)
        self._model, self._pace = model, pace
        self._training, self._held_out = training, held_out
        self._asked = held_out.only(drawn(held_out, WATCHED, pace.seed))
        self._known = training.only(drawn(training, COMPARED, pace.seed, needed=self._asked.labels))
        self._losses: list[float] = []
        self._alike: dict[int, list[int]] = defaultdict(list)
        for row, label in enumerate(training.labels):
            self._alike[label].append(row)

    @property
    def epoch(self) -> float:
        return self.step / self._pace.each

    @property
    def part(self) -> int:
        return self.step // self._pace.between

    def one_step(self) -> int:
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate
        anchors, positives = self._pairs()
        self._model.train()
        both = [self._training.tokens[row] for row in (*anchors, *positives)]
        vectors = self._model(both)
        likeness = vectors[: len(anchors)] @ vectors[len(anchors) :].T / self._pace.temperature
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
        torch.nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._losses.append(loss.item())
        return sum(map(len, both))

    def _pairs(self) -> tuple[list[int], list[int]]:
        """Rows of this step and one of the same label for each: decided by seed and step alone.

        A row that is alone with its label is its own positive, and only dropout tells the two apart.
        """
        size, count = self._pace.batch_size, len(self._training)
        epoch, part = divmod(self.step, self._pace.each)
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

    def report(self, seconds: float) -> dict[str, float]:
        losses, self._losses = self._losses, []
        return {
            "train_loss": float(np.mean(losses)),
            "texts_per_second": 2 * self._pace.batch_size * len(losses) / seconds,
        }

    def validate(self) -> dict[str, float]:
        found = self._measured(self._asked, self._known)
        return {f"valid_{name}": value for name, value in found.items()}

    def evaluate(self) -> dict[str, float]:
        """How early the right label comes when the labels are ordered by their most like training text, and `loss`, how
        unlikely it is. Raises Stopped."""
        return {**self._measured(self._held_out, self._training), "rows": float(len(self._held_out))}

    def _measured(self, asked: Rows, known: Rows) -> dict[str, float]:
        likeness = self._vectors(asked) @ self._vectors(known).T
        labels, right = torch.tensor(known.labels), torch.tensor(asked.labels)
        ranks = [rank(row, labels, label) for row, label in zip(likeness, asked.labels, strict=True)]
        loss = losses(likeness / self._pace.temperature, labels, right).mean()
        return {"loss": float(loss), **figures(ranks)}

    def _vectors(self, rows: Rows) -> torch.Tensor:
        """(rows, width) on the CPU, without gradients; like lengths together, so that little is padded."""
        self._model.eval()
        order = sorted(range(len(rows)), key=lambda row: len(rows.tokens[row]))
        found: list[torch.Tensor] = []
        for at in range(0, len(order), _AT_ONCE):
            if self._run.stop_reason:
                raise Stopped(self._run.stop_reason, self.step)
            found.append(self._model.vectors([rows.tokens[row] for row in order[at : at + _AT_ONCE]]))
        return torch.cat(found)[torch.from_numpy(np.argsort(order))]
