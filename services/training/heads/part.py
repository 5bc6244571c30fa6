"""One head with its rows: the loss of a batch of them, and what held-out rows say. Knows no loop and no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from services.training.heads.examples import Example, drawn
from services.training.heads.losses import CONTRASTIVE, Loss, LossOptions, contrast, make_loss
from services.training.heads.model import HeadModel
from services.training.heads.rows import Rows, rows_of, scale_of
from services.training.heads.scoring import Yardstick, label_counts, yardstick
from services.training.run import Run, Stopped
from shared.contracts.heads import HeadChoice

EVALUATED_AT_ONCE = 64
# Held-out rows that are looked at on the way; all of them count at the end.
WATCHED = 512


@dataclass
class Part:
    """`scale` is (factor, shift) from logits to what is measured and answered, `watched` the places of held-out rows
    that are looked at on the way. Of several parts that share a trunk each has a `name` and a `weight`, which its loss
    is multiplied by."""

    model: HeadModel
    choice: HeadChoice
    labels: tuple[str, ...]
    training: Rows
    held_out: Rows
    loss: Loss
    options: LossOptions
    yardstick: Yardstick
    scale: tuple[float, float]
    watched: npt.NDArray[np.int64]
    name: str = ""
    weight: float = 1.0

    @classmethod
    def of(
        cls,
        model: HeadModel,
        choice: HeadChoice,
        labels: tuple[str, ...],
        training: Sequence[Example],
        held_out: Sequence[Example],
        options: LossOptions,
        seed: int,
        *,
        name: str = "",
        weight: float = 1.0,
    ) -> Part:
        """Rows as the model sees them; `options` are completed with how often each label occurs."""
        device = model.layer.weight.device
        learned = scale_of(training, choice)
        counts = label_counts(training, labels) if labels else ()
        options = replace(options, counts=counts, rows=len(training))
        return cls(
            model,
            choice,
            labels,
            rows_of(training, model.trunk, choice, labels, learned, device),
            rows_of(held_out, model.trunk, choice, labels, learned, device),
            make_loss(choice.head, choice.named_loss, options),
            options,
            yardstick(training, choice.head, labels, seed),
            learned if choice.head == "regression" else (1.0, 0.0),
            np.array(drawn(held_out, WATCHED, seed), dtype=np.int64),
            name,
            weight,
        )

    def loss_of(self, chosen: npt.NDArray[np.int64]) -> torch.Tensor:
        """The mean over these training rows."""
        rows = self.training
        if self.choice.named_loss != CONTRASTIVE:
            return self.loss(self._logits(rows, chosen), rows.targets[chosen])
        features = self.model.features([rows.encodings[i][0] for i in chosen])
        apart = self.loss(self.model.of_features(features), rows.targets[chosen])
        near = contrast(features, rows.targets[chosen], self.options.contrastive_temperature)
        weight = self.options.contrastive_weight
        return (1 - weight) * apart + weight * near

    def tokens_of(self, chosen: npt.NDArray[np.int64]) -> int:
        return sum(len(one.ids) for i in chosen for one in self.training.encodings[i])

    def evaluate(
        self, run: Run, step: int, chosen: npt.NDArray[np.int64] | None = None
    ) -> tuple[dict[str, float], float]:
        """(figures, loss) over the held-out rows, or those at `chosen`. Raises Stopped when asked to stop."""
        rows = self.held_out
        places = np.arange(len(rows)) if chosen is None else chosen
        # Like lengths together, so that little is padded.
        order = places[np.argsort(np.array(rows.lengths)[places], kind="stable")]
        found: list[torch.Tensor] = []
        with torch.no_grad():
            self.model.eval()
            for start in range(0, len(order), EVALUATED_AT_ONCE):
                if run.stop_reason:
                    raise Stopped(run.stop_reason, step)
                found.append(self._logits(rows, order[start : start + EVALUATED_AT_ONCE]))
        logits = torch.cat(found)[torch.from_numpy(np.argsort(order))]
        loss = float(self.loss(logits, rows.targets[places]))
        scaled = logits.double().cpu().numpy() * self.scale[0] + self.scale[1]
        return self.yardstick.score([rows.examples[place] for place in places], scaled), loss

    def _logits(self, rows: Rows, chosen: npt.NDArray[np.int64]) -> torch.Tensor:
        """(rows, outputs); of pairs (rows, 2)."""
        if rows.features is not None:
            logits = self.model.of_features(rows.features[chosen].flatten(0, 1))
        else:
            logits = self.model([one for i in chosen for one in rows.encodings[i]])
        return logits.view(len(chosen), -1)
