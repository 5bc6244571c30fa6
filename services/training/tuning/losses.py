"""The losses of fine-tuning by name, over the positions that are learned alone and in bounded memory.

The whole (positions x vocabulary) table is never held: logits are made for some positions at a time, and made again
on the way back where keeping them would cost more than that.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

# What transformers leaves out of a loss.
IGNORED = -100
_TABLE_BYTES = 1 << 26
_MOST_ROWS = 1024
_KEPT_BYTES = 1 << 28
# Models that do more to logits than multiply: TRL's own head knows them.
_SPECIAL = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)


@dataclass(frozen=True)
class Loss:
    """`name` of LOSSES, and what label_smoothing spreads."""

    name: str
    smoothing: float = 0.0


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> torch.Tensor:  # noqa: ARG001
    return F.cross_entropy(logits, targets, reduction="sum")


def label_smoothing(logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> torch.Tensor:
    """A share of each target is spread evenly over the vocabulary (Szegedy et al. 2016, arXiv:1512.00567)."""
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=loss.smoothing)


def dft(logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> torch.Tensor:  # noqa: ARG001
    """-p log p with p held fixed in front: dynamic fine-tuning (Wu et al. 2025, arXiv:2508.05629)."""
    nll = F.cross_entropy(logits, targets, reduction="none")
    return (nll * torch.exp(-nll).detach()).sum()


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, Loss], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "label_smoothing": label_smoothing,
    "dft": dft,
}


def chunked(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, loss: Loss
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of the loss, targets guessed right) of hidden (positions, width) against targets (positions)."""
    vocabulary = weight.shape[0]
    rows = max(16, min(_MOST_ROWS, _TABLE_BYTES // (4 * vocabulary)))
    again = 4 * vocabulary * len(targets) > _KEPT_BYTES and torch.is_grad_enabled()
    # Connected to the model even where nothing is learned.
    total, right = hidden.sum() * 0.0, targets.new_zeros(())

    def part(some: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = F.linear(some, weight, bias).float()
        return LOSSES[loss.name](logits, wanted, loss), (logits.detach().argmax(-1) == wanted).sum()

    for some, wanted in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
        if again:
            one, hits = checkpoint(part, some, wanted, use_reentrant=False, preserve_rng_state=False)
        else:
            one, hits = part(some, wanted)
        total, right = total + one, right + hits
    return total.float(), right


def takes(model: PreTrainedModel) -> bool:
    """Whether the model's logits are its last states times the output layer, and its experts need no loss of theirs."""
    config = model.config.get_text_config()
    return not any(getattr(config, name, None) for name in (*_SPECIAL, "router_aux_loss_coef"))


def install(model: PreTrainedModel) -> None:
    """Let `model(..., learned=labels, loss=Loss)` return (sum of the loss, right, positions learned).

    Labels are as transformers has them: not shifted, -100 where nothing is learned. Goes on the model itself, inside
    of what PEFT or FSDP put around it.
    """
    plain = model.forward

    def forward(
        self: Any, *given: Any, learned: torch.Tensor | None = None, loss: Loss | None = None, **named: Any
    ) -> Any:
        if learned is None or loss is None:
            return plain(*given, **named)
        hidden = self.base_model(*given, **named, use_cache=False).last_hidden_state[:, :-1]
        targets = learned[:, 1:]
        chosen = targets != IGNORED
        head = self.get_output_embeddings()
        weight, bias = head.weight, head.bias
        if isinstance(weight, DTensor):
            # Sharded over processes: gathered once, and its gradient goes back to where the shards are.
            weight = weight.full_tensor()
            bias = bias.full_tensor() if bias is not None else None
        total, right = chunked(hidden[chosen], weight, bias, targets[chosen], loss)
        return total, right, chosen.sum()

    model.forward = types.MethodType(forward, model)
