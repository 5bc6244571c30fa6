"""TRL's SFTTrainer with our schedule, frames, stop requests, atomic checkpoints and losses. Knows no files of rows."""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTTrainer

from services.training import world
from services.training.reporting import Reporting
from services.training.tuning import losses
from services.training.tuning.losses import Loss
from services.training.tuning.plan import Plan

__all__ = ["Plan", "ReportingTrainer"]

_CROSS_ENTROPY = Loss("cross_entropy")


class ReportingTrainer(Reporting, SFTTrainer):  # type: ignore[misc]  # TRL is untyped
    """Supervised fine-tuning of rows that are already in order.

    With a `loss`, logits are made at learned positions alone; without one, as TRL makes them. Held-out rows are always
    measured by cross-entropy, so that runs of different losses can be compared.
    """

    def __init__(self, *, loss: Loss | None, **arguments: Any) -> None:
        self.loss = loss
        super().__init__(**arguments)
        if loss is not None:
            model = self.model
            losses.install(model.get_base_model() if hasattr(model, "get_base_model") else model)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """The mean over all learned tokens of the step, whatever parts and processes it is computed in."""
        if self.loss is None or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        training = self.model.training
        # Padding stands on the right, where causal attention needs no mask, and a mask costs a table of all positions.
        rest = {name: value for name, value in inputs.items() if name not in ("labels", "attention_mask")}
        total, right, count = model(
            **rest, learned=inputs["labels"], loss=self.loss if training else _CROSS_ENTROPY
        )
        if world.size() > 1:
            right, count = self.accelerator.reduce(torch.stack([right, count]), "sum").tolist()
        mode = "train" if training else "eval"
        self._metrics[mode]["mean_token_accuracy"].append(float(right) / max(1, int(count)))
        if num_items_in_batch is None:
            return total / (max(1, int(count)) / world.size())
        # Processes average their gradients, and the number is of the tokens of all.
        return total / num_items_in_batch.clamp(min=1) * world.size()
