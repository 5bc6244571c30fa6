"""Chooses the next token of each row from its logits. One row's choice never depends on another row.

Randomness is a counter: the number drawn depends only on the row's seed and the token's position, so the same
seed gives the same text after a preemption or in other company.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch

from services.inference.engine.request import Sampling

# Nuclei are nearly always smaller; a row whose nucleus is larger is looked at further.
_NUCLEUS_GUESS = 256
_STRETCH = 512
# The bits of each byte, lowest first.
_BITS = (torch.arange(256).unsqueeze(1) >> torch.arange(8)).bitwise_and(1).bool()


@dataclass(frozen=True)
class Pick:
    """What a row's choice depends on besides its logits.

    `answered` counts the tokens of the answer so far and `prompt` holds those of the prompt, where a penalty needs
    them; `mask` is (words) int32, whose bit j of word w allows token 32 w + j.
    """

    sampling: Sampling
    seed: int
    position: int
    answered: Mapping[int, int] = field(default_factory=dict)
    prompt: Sequence[int] = ()
    mask: torch.Tensor | None = None

    @property
    def adjusts(self) -> bool:
        """Something is to be done to the logits before the choice."""
        sampling = self.sampling
        return bool(sampling.counts_tokens or sampling.logit_bias or self.mask is not None)


@dataclass(frozen=True)
class Choice:
    """A chosen token; ln p of it and of the likeliest (token, ln p) under the raw logits, if asked for."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@torch.inference_mode()
def choose(logits: torch.Tensor, rows: Sequence[Pick]) -> list[Choice | None]:
    """Pick a token for each row of `logits` (rows, vocabulary), which it may change; None where none can be picked.

    That is where the logits are not finite, or a mask allows nothing.
    """
    return choose_all(logits, rows, late=logits.device.type != "cpu")


def choose_all(logits: torch.Tensor, rows: Sequence[Pick], *, late: bool) -> list[Choice | None]:
    """`choose`, which looks `late` at what is computed: on a GPU each look waits for everything before it.

    Then rows of which nothing can be picked are computed like the others, and told apart at the end.
    """
    best, tokens = logits.max(dim=-1)
    possible = torch.isfinite(best)
    finite = [True] * len(rows) if late else possible.tolist()
    wanted = [i for i, row in enumerate(rows) if row.sampling.logprobs and finite[i]]
    # Before anything is changed.
    table = logits[wanted].float().log_softmax(-1) if wanted else logits[:0]
    adjusted = [i for i, row in enumerate(rows) if finite[i] and row.adjusts]
    if adjusted:
        _adjust(logits, rows, adjusted)
        best, tokens[adjusted] = logits[adjusted].max(dim=-1)
        possible[adjusted] &= torch.isfinite(best)
        finite = finite if late else possible.tolist()
    random = [i for i, row in enumerate(rows) if row.sampling.temperature > 0 and finite[i]]
    if random:
        some = slice(None) if len(random) == len(rows) else random
        tokens[some] = _draw(logits[some], [rows[i] for i in random], guarded=late)
    chosen = tokens.where(possible, -1).tolist()
    told = _told(table, tokens, rows, wanted)
    return [Choice(token, *told.get(i, (None, ()))) if token >= 0 else None for i, token in enumerate(chosen)]


def _told(
    table: torch.Tensor, tokens: torch.Tensor, rows: Sequence[Pick], wanted: Sequence[int]
) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
    """By row of `wanted`: ln p (their `table`) of its token, and of the likeliest ones that it asks for."""
    if not wanted:
        return {}
    own = table.gather(1, tokens[wanted].unsqueeze(1)).flatten().tolist()
    counts = [min(rows[i].sampling.top_logprobs, table.shape[1]) for i in wanted]
    tops = [table[place].topk(count) for place, count in enumerate(counts)]
    values = iter(torch.cat([top.values for top in tops]).tolist())
    likeliest = iter(torch.cat([top.indices for top in tops]).tolist())
    return {
        i: (logprob, tuple(zip(islice(likeliest, count), islice(values, count), strict=True)))
        for i, logprob, count in zip(wanted, own, counts, strict=True)
    }


def _adjust(logits: torch.Tensor, rows: Sequence[Pick], which: Sequence[int]) -> None:
    """Penalties, biases and masks of the rows `which`, in place."""
    places: list[int] = []
    tokens: list[int] = []
    values: list[float] = []
    for i in which:
        row, sampling = rows[i], rows[i].sampling
        if sampling.repetition_penalty != 1:
            seen = torch.tensor(sorted({*row.prompt, *row.answered}), device=logits.device)
            old = logits[i, seen]
            factor = sampling.repetition_penalty
            logits[i, seen] = torch.where(old > 0, old / factor, old * factor)
        change = dict(sampling.logit_bias)
        if sampling.frequency_penalty or sampling.presence_penalty:
            for token, count in row.answered.items():
                less = sampling.frequency_penalty * count + sampling.presence_penalty
                change[token] = change.get(token, 0.0) - less
        places += [i] * len(change)
        tokens += change.keys()
        values += change.values()
    if places:
        index = (torch.tensor(places, device=logits.device), torch.tensor(tokens, device=logits.device))
        added = torch.tensor(values, dtype=logits.dtype, device=logits.device)
        logits.index_put_(index, added, accumulate=True)
    for i in which:
        mask = rows[i].mask
        if mask is not None:
            allowed = _BITS[mask.view(torch.uint8).long()].flatten()[: logits.shape[1]].to(logits.device)
            logits[i, : len(allowed)].masked_fill_(~allowed, float("-inf"))
            logits[i, len(allowed) :] = float("-inf")


def _draw(logits: torch.Tensor, rows: Sequence[Pick], *, guarded: bool) -> torch.Tensor:
    """(rows) tokens by inverse transform over the kept tokens, in the vocabulary's order; `guarded`, any of them for
    rows that are not finite.

    The order matters: a sort can swap two near-equal tokens when the last bits of the logits differ.
    """
    device = logits.device
    temperature = torch.tensor([row.sampling.temperature for row in rows], device=device)
    probabilities = (logits.float() / temperature.clamp_min(1e-5).unsqueeze(1)).softmax(-1)
    if guarded:
        probabilities.nan_to_num_()
    limited = [i for i, row in enumerate(rows) if _limits(row.sampling)]
    if limited:
        some = probabilities[limited]
        samplings = [rows[i].sampling for i in limited]
        floor = _smallest_kept(some, samplings)
        least = torch.tensor([sampling.min_p for sampling in samplings], device=device).unsqueeze(1)
        floor = torch.maximum(floor, least * some.amax(-1, keepdim=True))
        probabilities[limited] = some.masked_fill(some < floor, 0.0)
    points = [uniform(row.seed, row.position) for row in rows]
    return _invert(probabilities, torch.tensor(points, device=device, dtype=torch.float64).unsqueeze(1))


def _limits(sampling: Sampling) -> bool:
    return bool(sampling.top_k or sampling.top_p < 1 or sampling.min_p)


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
    # Where all is zero there is no such place.
    return torch.searchsorted(running, below, right=True).clamp_max(running.shape[-1] - 1)


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
