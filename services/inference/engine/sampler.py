"""Chooses the next token of each row from its logits. One row's choice never depends on another row.

Randomness is a counter: the number drawn depends only on the row's seed and the token's position, so the same
seed gives the same text after a preemption or in other company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from services.inference.engine.request import Sampling

# Nuclei are nearly always smaller; a row whose nucleus is larger is looked at further.
_NUCLEUS_GUESS = 256
_STRETCH = 512


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
    limited = [i for i, (sampling, _, _) in enumerate(rows) if sampling.top_k or sampling.top_p < 1]
    if limited:
        some = probabilities[limited]
        floor = _smallest_kept(some, [rows[i][0] for i in limited])
        probabilities[limited] = some.masked_fill(some < floor, 0.0)
    points = [uniform(seed, position) for _, seed, position in rows]
    return _invert(probabilities, torch.tensor(points, device=device, dtype=torch.float64).unsqueeze(1))


def _invert(probabilities: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """(rows) places where the running sum of (rows, vocabulary) passes `points` (rows, 1) of its whole.

    Sums of stretches first, then within one stretch: a running sum over a whole vocabulary is slow.
    """
    padded = torch.nn.functional.pad(probabilities, (0, -probabilities.shape[1] % _STRETCH))
    stretches = padded.view(padded.shape[0], -1, _STRETCH)
    sums = stretches.sum(-1, dtype=torch.float64)
    running = sums.cumsum(-1)
    target = points * running[:, -1:]
    which = _first_over(running, target)
    inside = stretches.gather(1, which.unsqueeze(2).expand(-1, 1, _STRETCH)).squeeze(1).double().cumsum(-1)
    place = _first_over(inside, target - (running.gather(1, which) - sums.gather(1, which)))
    return (which * _STRETCH + place).squeeze(1)


def _first_over(running: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(rows, 1) first place whose running sum is over the target; never one that adds nothing."""
    # Rounding may bring the target up to the last sum itself, past which there is nothing, or below zero.
    below = torch.minimum(target.clamp_min(0), running[:, -1:] * (1 - 2**-52))
    return torch.searchsorted(running, below, right=True)


def _smallest_kept(
    probabilities: torch.Tensor, samplings: list[Sampling], guess: int = _NUCLEUS_GUESS
) -> torch.Tensor:
    """(rows, 1) least probability that top-k and then top-p keep of (rows, vocabulary). Equal ones are kept together.

    Looks at the highest `guess` first; eight times as many for rows whose nucleus is larger.
    """
    size = probabilities.shape[1]
    counts = [min(sampling.top_k or size, size) for sampling in samplings]
    guess = min(size, max([guess, *(count for count in counts if count < size)]))
    highest = probabilities.topk(guess).values
    top_k = torch.tensor(counts, device=highest.device).unsqueeze(1)
    top_p = torch.tensor([sampling.top_p for sampling in samplings], device=highest.device).unsqueeze(1)
    within = torch.arange(guess, device=highest.device) < top_k
    share = highest * within
    # Top-p is a share of what top-k has kept.
    whole = torch.where(top_k < size, share.sum(-1, keepdim=True), 1.0)
    kept = within & ((share.cumsum(-1) - share < top_p * whole) | (top_p >= 1))
    last = kept.sum(-1, keepdim=True).clamp_min(1) - 1
    floor = highest.gather(1, last)
    short = [i for i, place in enumerate(last.flatten().tolist()) if place == guess - 1 and counts[i] > guess]
    if short:
        floor[short] = _smallest_kept(probabilities[short], [samplings[i] for i in short], guess=8 * guess)
    return floor


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from the SplitMix64 of (seed, position) (Steele et al., OOPSLA 2014)."""
    mask = (1 << 64) - 1
    z = (seed * 0xD1342543DE82EF95 + (position + 1) * 0x9E3779B97F4A7C15) & mask
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) & mask
    return float((z ^ (z >> 31)) >> 11) / float(1 << 53)
