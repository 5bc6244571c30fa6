"""The loop that trains heads on a trunk: ordered batches, one optimizer, checkpoints that resume bitwise. Knows no
files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from services.training.checkpoint import CheckpointStore
from services.training.heads.pace import Pace
from services.training.heads.part import Part
from services.training.loop import Loop
from services.training.run import Run


@dataclass
class _Tally:
    """Since the last report: losses by the number of their part, and tokens."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    tokens: int = 0


class HeadTrainer(Loop):
    """One run of one part, or of several on one trunk. `train` raises Stopped at a step boundary when asked to."""

    def __init__(self, run: Run, parts: Sequence[Part], pace: Pace, store: CheckpointStore) -> None:
        self._parts, self._pace = parts, pace
        models = [part.model for part in parts]
        self._model = models[0] if len(models) == 1 else nn.ModuleList(models)
        self._tally = _Tally()
        weights = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        last = {id(p) for model in models for p in model.layer.parameters()}
        layer = [p for p in weights.values() if id(p) in last]
        body = [p for p in weights.values() if id(p) not in last]
        groups = [{"params": layer, "factor": pace.layer_factor}, {"params": body, "factor": 1.0}]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], weight_decay=pace.weight_decay
        )
        super().__init__(run, weights, optimizer, pace.rhythm, store)

    @property
    def epoch(self) -> float:
        return self._pace.seen(self.step) / sum(len(part.training) for part in self._parts)

    def one_step(self) -> int:
        number, chosen = self._pace.batch(self.step)
        part = self._parts[number]
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate * group["factor"]
        self._model.train()
        loss = part.loss_of(chosen)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
        if part.weight != 1:
            # Behind the clipping, which would level the weights of tasks out again.
            for parameter in self._weights.values():
                if parameter.grad is not None:
                    parameter.grad.mul_(part.weight)
        self._optimizer.step()
        self._optimizer.zero_grad()
        count = part.tokens_of(chosen)
        self._tally.losses.append((number, loss.item()))
        self._tally.tokens += count
        return count

    def validate(self) -> dict[str, float]:
        losses: list[float] = []
        found: dict[str, float] = {}
        for part in self._parts:
            figures, loss = part.evaluate(self._run, self.step, part.watched)
            losses.append(loss * part.weight)
            told = {"loss": loss, **figures}
            found |= {_named(part, f"valid_{name}"): value for name, value in told.items()}
        # The parts' weights say what counts; with one part this is its own loss.
        return found | {"valid_loss": sum(losses) / sum(part.weight for part in self._parts)}

    def report(self, seconds: float) -> dict[str, float]:
        tally, self._tally = self._tally, _Tally()
        data = {
            "train_loss": float(np.mean([loss for _, loss in tally.losses])),
            "tokens_per_second": tally.tokens / seconds,
        }
        for number, part in enumerate(self._parts):
            own = [loss for of, loss in tally.losses if of == number]
            if part.name and own:
                data[_named(part, "train_loss")] = float(np.mean(own))
        return data

    def write_beside(self, folder: Path) -> None:
        self._parts[0].model.trunk.tokenizer.save_pretrained(folder)


def _named(part: Part, metric: str) -> str:
    """`intent/valid_loss` of a part with a name, else the metric alone."""
    return f"{part.name}/{metric}" if part.name else metric
