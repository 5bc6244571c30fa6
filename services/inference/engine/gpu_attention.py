"""A step's attention by a GPU's kernels: paged decode, and all prefill chunks in one variable-length call.

`GpuStep` is the `attend` of a `StepBatch`; the kernels are handed in, so that all of it but them runs anywhere. Knows
no request and no scheduling. Never run on a GPU so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from typing import Any

import torch

from services.inference.engine.attention import Segment, prefill
from services.inference.engine.paged_cache import PagedCache
from services.inference.engine.paged_decode import Decodes

# Flash-attention's limits.
_VARLEN_MOST_WIDTH = 256
_VARLEN_MULTIPLE = 8


@dataclass(frozen=True)
class Kernels:
    """`write` and `decode` of `paged_decode`, and `torch.nn.attention.varlen.varlen_attn` where the GPU has it."""

    write: Callable[..., None]
    decode: Callable[..., torch.Tensor]
    varlen: Callable[..., Any] | None
    # What flash-attention takes, in which the variable-length call is written.
    varlen_dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Chunks:
    """N prefill chunks, step tokens from `first` on, one after another.

    `query_ends` and `key_ends` (N + 1, int32) are running sums of their queries and of all tokens that those may see;
    `context` says where the cache has these, as a block and an offset for each, None where no chunk has anything
    before it.
    """

    first: int
    segments: Sequence[Segment]
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    most_queries: int
    most_keys: int
    context: tuple[torch.Tensor, torch.Tensor] | None
    _moved: list[Segment] = field(default_factory=list)

    def segments_on(self, device: torch.device) -> Sequence[Segment]:
        """The chunks one by one, with their block tables on the device."""
        if not self._moved:
            self._moved.extend(replace(part, blocks=part.blocks.to(device)) for part in self.segments)
        return self._moved


def sent(values: Sequence[int], device: torch.device, dtype: torch.dtype = torch.long) -> torch.Tensor:
    """Numbers on the device, by a copy that nobody waits for."""
    return moved(torch.tensor(values, dtype=dtype), device)


def moved(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def decodes_of(rows: Sequence[tuple[int, Sequence[int]]], block_size: int, device: torch.device) -> Decodes:
    """Of each row: how many tokens it may see, and the blocks that hold them, perhaps with others behind."""
    lengths = [length for length, _ in rows]
    tables = [blocks[: -(-length // block_size)] for length, blocks in rows]
    starts = [0, *accumulate(map(len, tables))][:-1]
    numbers = sent([*lengths, *starts, *chain.from_iterable(tables)], device)
    return Decodes(numbers[: len(rows)], numbers[len(rows) : 2 * len(rows)], numbers[2 * len(rows) :])


def chunks_of(segments: Sequence[Segment], block_size: int, device: torch.device) -> Chunks:
    """The index tensors of `segments`, which follow each other; their `blocks` are on the CPU."""
    queries = [segment.end - segment.start for segment in segments]
    totals = [segment.context + count for segment, count in zip(segments, queries, strict=True)]
    context = None
    if any(segment.context for segment in segments):
        offsets = torch.arange(block_size)
        pairs = list(zip(segments, totals, strict=True))
        blocks = [segment.blocks.repeat_interleave(block_size)[:total] for segment, total in pairs]
        places = [offsets.repeat(len(segment.blocks))[:total] for segment, total in pairs]
        context = moved(torch.cat(blocks), device), moved(torch.cat(places), device)
    return Chunks(
        segments[0].start,
        segments,
        sent([0, *accumulate(queries)], device, torch.int32),
        sent([0, *accumulate(totals)], device, torch.int32),
        max(queries),
        max(totals),
        context,
    )


@dataclass(frozen=True)
class GpuStep:
    """A step of T tokens: `decodes` first, as many as it has lengths, then `chunks`. `slots` (T) is where each goes."""

    kernels: Kernels
    slots: torch.Tensor
    decodes: Decodes | None
    chunks: Chunks | None

    def __call__(
        self,
        cache: PagedCache,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """See `attention.Attend`."""
        new_keys, new_values = key[0].transpose(0, 1), value[0].transpose(0, 1)
        cache.reserve(layer, new_keys, new_values)
        keys, values = cache.keys[layer], cache.values[layer]
        self.kernels.write(keys, values, new_keys, new_values, self.slots)
        parts = []
        if self.decodes is not None:
            count = len(self.decodes.lengths)
            queries = query[0, :, :count].transpose(0, 1)
            parts.append(self.kernels.decode(queries, keys, values, self.decodes, scale, window))
        if self.chunks is not None:
            if self._takes(query, value):
                parts.append(self._varlen(self.chunks, cache, layer, query, key, value, scale, window))
            else:
                parts += [
                    prefill(cache, layer, segment, query, key, value, scale, window)
                    for segment in self.chunks.segments_on(query.device)
                ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _takes(self, query: torch.Tensor, value: torch.Tensor) -> bool:
        """The variable-length call can compute these."""
        width = query.shape[3]
        return (
            self.kernels.varlen is not None
            and query.dtype in self.kernels.varlen_dtypes
            and width == value.shape[3]
            and width <= _VARLEN_MOST_WIDTH
            and width % _VARLEN_MULTIPLE == 0
        )

    def _varlen(
        self,
        chunks: Chunks,
        cache: PagedCache,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """All chunks at once; causal, with a chunk's last query at the end of what it may see.

        What is cached is gathered first: the call's own block tables want blocks of 256 tokens (flash-attention 2).
        """
        assert self.kernels.varlen is not None
        if chunks.context is None:
            keys, values = (new[0, :, chunks.first :].transpose(0, 1) for new in (key, value))
        else:
            block, offset = chunks.context
            keys, values = (store[layer][block, :, offset] for store in (cache.keys, cache.values))
        narrow = window is not None and window < chunks.most_keys
        found: torch.Tensor = self.kernels.varlen(
            query[0, :, chunks.first :].transpose(0, 1),
            keys,
            values,
            chunks.query_ends,
            chunks.key_ends,
            chunks.most_queries,
            chunks.most_keys,
            scale=scale,
            # The call counts the tokens before a query's own.
            window_size=(window - 1 if narrow and window is not None else -1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return found
