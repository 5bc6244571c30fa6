"""The optimizer of pretraining: Muon for the layers' matrices, AdamW for the rest, one learning rate for both.

Muon (Jordan et al. 2024) orthogonalises each matrix's momentum; scaled to the size of an AdamW step as in Moonlight
(arXiv:2502.16982). On models this small it learns as much in two epochs as AdamW in eight. torch.optim.Muon
computes in bfloat16, which common CPUs emulate at a hundredth of the speed; this one stays in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315
_MOMENTUM = 0.95
_RMS = 0.2


class MuonAdamW:
    """Looks like a torch optimizer where the loop needs it: rate, step, zero_grad, state_dict, load_state_dict."""

    def __init__(self, named: Iterable[tuple[str, torch.nn.Parameter]], weight_decay: float) -> None:
        parameters = [(name, p) for name, p in named if p.requires_grad]
        # Embeddings (and an untied head) are tables of vectors, not maps: orthogonalising them makes no sense.
        matrices = [
            p for name, p in parameters if p.dim() == 2 and "embed" not in name and "lm_head" not in name
        ]
        chosen = {id(p) for p in matrices}
        others = [p for _, p in parameters if id(p) not in chosen]
        self._adamw = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self._weight_decay = weight_decay
        self._shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
        for p in matrices:
            self._shapes.setdefault(p.shape, []).append(p)
        self._momenta = {
            shape: torch.zeros(len(group), *shape, device=group[0].device)
            for shape, group in self._shapes.items()
        }
        self._rate = 0.0

    def set_rate(self, rate: float) -> None:
        self._rate = rate
        for group in self._adamw.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradients at hand; every parameter must have one."""
        self._adamw.step()
        for shape, group in self._shapes.items():
            gradient = torch.stack([_gradient(p) for p in group]).float()
            momentum = self._momenta[shape].lerp_(gradient, 1 - _MOMENTUM)
            direction = orthogonalise(gradient.lerp_(momentum, _MOMENTUM))
            scale = self._rate * _RMS * max(shape) ** 0.5
            for p, update in zip(group, direction, strict=True):
                p.mul_(1 - self._rate * self._weight_decay).sub_(update.to(p.dtype), alpha=scale)

    def zero_grad(self) -> None:
        self._adamw.zero_grad(set_to_none=True)
        for group in self._shapes.values():
            for p in group:
                p.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"adamw": self._adamw.state_dict(), "momenta": list(self._momenta.values())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._adamw.load_state_dict(state["adamw"])
        for mine, saved in zip(self._momenta.values(), state["momenta"], strict=True):
            mine.copy_(saved)


def orthogonalise(batch: torch.Tensor) -> torch.Tensor:
    """Near-orthogonal matrices with the singular vectors of `batch`, shape (count, rows, columns).

    Five Newton-Schulz steps bring every singular value near 1 (0.7 to 1.2 is near enough for an optimizer).
    """
    tall = batch.size(-2) > batch.size(-1)
    x = batch.mT if tall else batch
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * (gram @ gram)) @ x
    out: torch.Tensor = x.mT if tall else x
    return out


def _gradient(p: torch.nn.Parameter) -> torch.Tensor:
    assert p.grad is not None
    return p.grad
