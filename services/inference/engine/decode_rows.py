"""Attention of one new token a sequence to all before it, several sequences of like length at once.

Knows where their keys and values are read, not how a step is made up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch.nn.functional import embedding_bag

from services.inference.engine.paged_cache import PagedCache, by_head

# From this head size on, a CPU's product with the keys on the left is faster, up to twice; below it is slower.
_WIDE_HEAD = 64


@dataclass(frozen=True)
class Bags:
    """Rows of a table (rows, head size) whose weighed sums are wanted: `rows` of one sum after another, int32.

    `starts` (sums) are the places in `rows` where each sum's begin.
    """

    rows: torch.Tensor
    starts: torch.Tensor


@dataclass
class DecodeRows:
    """Decoding sequences of like length, step tokens `start:end`, that are read `width` tokens wide.

    `lengths` (sequences) counts the tokens that each attends to, of which `longest` is the most.
    """

    start: int
    end: int
    lengths: torch.Tensor
    longest: int
    width: int
    _masks: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict, init=False)
    _bags: dict[tuple[int, int, int], Bags] = field(default_factory=dict, init=False)

    def mask(self, heads: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """(sequences x heads, 1, width) to add to scores: minus infinity past the end and before the window."""
        if window is not None and window >= self.longest:
            window = None
        key = (heads, window)
        if key not in self._masks:
            place = torch.arange(self.width, device=self.lengths.device).unsqueeze(0)
            lengths = self.lengths.unsqueeze(1)
            hidden = place >= lengths
            if window is not None:
                hidden |= place < lengths - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            mask.masked_fill_(hidden, float("-inf"))
            self._masks[key] = mask.repeat_interleave(heads, 0).unsqueeze(1)
        return self._masks[key]

    def bags(self, heads: int, tokens: int, queries: int) -> Bags:
        """For `queries` query heads a kv head; the table has `heads` times `tokens` rows a slot, or a block."""
        key = (heads, tokens, queries)
        if key not in self._bags:
            rows = self.rows(heads, tokens).to(torch.int32).unsqueeze(1).expand(-1, queries, -1)
            starts = torch.arange(0, rows.numel(), self.width, dtype=torch.int32)
            self._bags[key] = Bags(rows.flatten(), starts)
        return self._bags[key]

    def rows(self, heads: int, tokens: int) -> torch.Tensor:
        """(sequences x heads, width) rows, as of `bags`, that each head of each sequence reads."""
        raise NotImplementedError


@dataclass
class DecodeGroup(DecodeRows):
    """Rows that are read from their blocks; `blocks` is (sequences, most blocks)."""

    blocks: torch.Tensor
    _index: dict[int, torch.Tensor] = field(default_factory=dict, init=False)

    def keys(self, cache: PagedCache, layer: int) -> torch.Tensor:
        return self._gathered(cache.keys[layer], cache, "keys")

    def values(self, cache: PagedCache, layer: int) -> torch.Tensor:
        return self._gathered(cache.values[layer], cache, "values")

    def value_table(self, cache: PagedCache, layer: int) -> torch.Tensor:
        return cache.values[layer]

    def rows(self, heads: int, tokens: int) -> torch.Tensor:
        first = by_head(self.blocks, heads).view(len(self.blocks) * heads, -1, 1) * tokens
        return (first + torch.arange(tokens, device=first.device)).flatten(1)

    def _gathered(self, store: torch.Tensor, cache: PagedCache, kind: str) -> torch.Tensor:
        heads = store.shape[1]
        if heads not in self._index:
            self._index[heads] = by_head(self.blocks, heads)
        return cache.gathered(kind, store, self._index[heads], len(self.blocks)).flatten(0, 1)


class Decoding(Protocol):
    """What a step decodes at once, the rows `start:end` of those that decode, wherever it is read."""

    start: int
    end: int

    def keys(self, cache: PagedCache, layer: int) -> torch.Tensor:
        """(sequences x kv heads, width, head size)."""
        ...

    def values(self, cache: PagedCache, layer: int) -> torch.Tensor:
        """As `keys`."""
        ...

    def value_table(self, cache: PagedCache, layer: int) -> torch.Tensor:
        """(..., heads, tokens, head size), contiguous, of which `bags` are rows."""
        ...

    def bags(self, heads: int, tokens: int, queries: int) -> Bags: ...

    def mask(self, heads: int, window: int | None, dtype: torch.dtype) -> torch.Tensor: ...


def decode(
    cache: PagedCache, layer: int, group: Decoding, queries: torch.Tensor, scale: float, window: int | None
) -> torch.Tensor:
    """Of `queries` (decodes, heads, head size); returns (rows, heads, head size) of the group's.

    One query a sequence: query heads of a kv head go together. Each layer reads other memory, so that reading is what
    takes the time: values are not laid together for a product but summed where they lie.
    """
    count, heads = group.end - group.start, cache.keys[layer].shape[1]
    k = group.keys(cache, layer)
    q = queries[group.start : group.end].reshape(k.shape[0], -1, k.shape[2])
    mask = group.mask(heads, window, q.dtype)
    if k.shape[2] >= _WIDE_HEAD:
        scores = torch.baddbmm(mask.transpose(1, 2), k, q.transpose(1, 2), alpha=scale).transpose(1, 2)
    else:
        scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale)
    weights = scores.softmax(-1)
    if weights.device.type != "cpu" or weights.dtype != torch.float32:
        return torch.bmm(weights, group.values(cache, layer)).view(count, -1, cache.values[layer].shape[3])
    table = group.value_table(cache, layer)
    bags = group.bags(heads, table.shape[2], q.shape[1])
    width = table.shape[3]
    return embedding_bag(
        bags.rows, table.view(-1, width), bags.starts, mode="sum", per_sample_weights=weights.flatten()
    ).view(count, -1, width)
