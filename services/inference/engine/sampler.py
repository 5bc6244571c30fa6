"""Chooses the next token of each row from its logits. One row's choice never depends on another row.

Randomness is a counter: the number drawn depends only on the row's seed and the token's position, so the same
seed gives the same text after a preemption or in other company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from services.inference.engine.request import Sampling

# Nuclei are nearly always smaller; a row whose nucleus is larger is sorted whole.
_NUCLEUS_GUESS = 256


@dataclass(frozen=True)
class Choice:
    """A chosen token, and ln p of it under the raw logits if asked for; None where the logits are not finite."""

    token: int
    logprob: float | None


def choose(logits: torch.Tensor, rows: Sequence[tuple[Sampling, int, int]]) -> list[Choice | None]:
    """Pick a token for each row of `logits` (rows, vocabulary), given its (sampling, seed, position)."""
    best, tokens = logits.max(dim=-1)
    finite = torch.isfinite(best).tolist()
    random = [i for i, (sampling, _, _) in enumerate(rows) if sampling.temperature > 0 and finite[i]]
    if random:
        tokens[random] = _draw(logits[random], [rows[i] for i in random])
    logprobs: dict[int, float] = {}
    wanted = [i for i, (sampling, _, _) in enumerate(rows) if sampling.logprobs and finite[i]]
    if wanted:
        table = logits[wanted].float().log_softmax(-1)
        picked = table.gather(1, tokens[wanted].unsqueeze(1)).squeeze(1)
        logprobs = dict(zip(wanted, picked.tolist(), strict=True))
    return [Choice(token, logprobs.get(i)) if finite[i] else None for i, token in enumerate(tokens.tolist())]


def _draw(logits: torch.Tensor, rows: Sequence[tuple[Sampling, int, int]]) -> torch.Tensor:
    """(rows) tokens by inverse transform over the kept tokens, in the vocabulary's order.

    The order matters: a sort can swap two near-equal tokens when the last bits of the logits differ.
    """
    device = logits.device
    temperature = torch.tensor([sampling.temperature for sampling, _, _ in rows], device=device)
    probabilities = (logits.float() / temperature.clamp_min(1e-5).unsqueeze(1)).softmax(-1)
    for i, (sampling, _, _) in enumerate(rows):
        floor = _smallest_kept(probabilities[i], sampling)
        if floor > 0:
            probabilities[i].masked_fill_(probabilities[i] < floor, 0.0)
    summed = probabilities.double().cumsum(-1)
    point = torch.tensor(
        [uniform(seed, position) for _, seed, position in rows], device=device, dtype=torch.float64
    )
    target = (point * summed[:, -1]).unsqueeze(1)
    # `right=True` steps over tokens of probability zero.
    chosen = torch.searchsorted(summed, target, right=True).squeeze(1)
    return chosen.clamp_max(logits.shape[1] - 1)


def _smallest_kept(probabilities: torch.Tensor, sampling: Sampling) -> float:
    """The least probability that top-k and then top-p keep; 0 keeps all. Equal ones are kept together."""
    size = probabilities.shape[0]
    top_k = min(sampling.top_k, size) if sampling.top_k else size
    if top_k == size and sampling.top_p >= 1:
        return 0.0
    guess = top_k if top_k < size else min(size, _NUCLEUS_GUESS)
    highest = probabilities.topk(guess).values
    if sampling.top_p >= 1:
        return float(highest[-1])
    # Top-p is a share of what top-k has kept.
    whole = float(highest.sum()) if top_k < size else 1.0
    before = highest.cumsum(0) - highest
    if top_k == size and guess < size and float(before[-1] + highest[-1]) < sampling.top_p:
        highest = probabilities.sort(descending=True).values
        before = highest.cumsum(0) - highest
    kept = int((before < sampling.top_p * whole).sum())
    return float(highest[max(kept, 1) - 1])


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from the SplitMix64 of (seed, position) (Steele et al., OOPSLA 2014)."""
    mask = (1 << 64) - 1
    z = (seed * 0xD1342543DE82EF95 + (position + 1) * 0x9E3779B97F4A7C15) & mask
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) & mask
    return float((z ^ (z >> 31)) >> 11) / float(1 << 53)
