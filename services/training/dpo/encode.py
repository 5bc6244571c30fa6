"""Pairs as tokens, each prompt once and its two answers, rendered as they will be served. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from services.training.dpo.rows import Pair
from services.training.tokenizer import IGNORED, encode_conversation
from shared.errors import InvalidInput

_WHOLE = 1 << 30


@dataclass(frozen=True)
class EncodedPair:
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def longest(self) -> int:
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    @property
    def tokens(self) -> int:
        """Of both sequences."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], room: int, param: str
) -> tuple[list[EncodedPair], int]:
    """(those that fit into `room` tokens, how many do not). An answer that is cut is another answer, so none is.

    Raises InvalidInput where none fits.
    """
    encoded = [_encode(tokenizer, pair) for pair in pairs]
    kept = [one for one in encoded if one.longest <= room]
    if encoded and not kept:
        shortest = min(one.longest for one in encoded)
        raise InvalidInput(
            f"no pair fits within {room} tokens, prompt and answer together; the shortest has {shortest}. A higher "
            "max_length helps where the model reads as much, else shorter prompts",
            code="invalid_training_file",
            param=param,
        )
    return kept, len(encoded) - len(kept)


def _encode(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> EncodedPair:
    prompt, chosen = _sides(tokenizer, pair, better=True)
    other, rejected = _sides(tokenizer, pair, better=False)
    # A template may look at the answer; what both have in common is then the prompt.
    common = next((n for n, (a, b) in enumerate(zip(prompt, other, strict=False)) if a != b), None)
    if common is not None or len(prompt) != len(other):
        common = min(len(prompt), len(other)) if common is None else common
        chosen, rejected = prompt[common:] + chosen, other[common:] + rejected
        prompt = prompt[:common]
    return EncodedPair(prompt, chosen, rejected)


def _sides(tokenizer: PreTrainedTokenizerBase, pair: Pair, *, better: bool) -> tuple[list[int], list[int]]:
    """Tokens of the prompt, and of an answer with its end."""
    turns = (*pair.prompt, pair.chosen if better else pair.rejected)
    (whole,) = encode_conversation(tokenizer, turns, _WHOLE)
    learned = [place for place, label in enumerate(whole.labels) if label != IGNORED]
    return whole.ids[: learned[0]], whole.ids[learned[0] : learned[-1] + 1]
