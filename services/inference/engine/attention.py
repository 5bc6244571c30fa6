"""Paged attention for any transformers model that goes through its AttentionInterface.

A step's tokens are one row of length T: first one token of each decoding sequence, by length, then the prefill
chunks. `StepBatch` travels as the forward keyword `step`. Knows no request and no scheduling.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import AttentionInterface

from shared.errors import HeliuError

IMPLEMENTATION = "heliu_paged"

# What some models add to the scores; a model that passes one of these is refused at load, by name.
UNSUPPORTED = ("softcap", "s_aux", "position_bias", "head_mask")


class UnsupportedModel(HeliuError):
    """This architecture, or an option of it, cannot be served."""

    code = "model_unsupported"


class PagedCache:
    """Keys and values of every layer: per layer one tensor each, (blocks, kv heads, block size, head size).

    With the heads outside the block's tokens, a gather by (block, head) yields a contiguous
    (sequences, kv heads, length, head size), which batched matmul reads far faster than a strided view.
    Layers are allocated when first written, in the shape that the model itself produces.
    """

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        self._scratch: dict[str, torch.Tensor] = {}

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, step: StepBatch) -> None:
        """Store (tokens, kv heads, head size) at the step's slots."""
        self.reserve(layer, key, value)
        index = step.write_index(key.shape[1])
        for store, new in ((self.keys[layer], key), (self.values[layer], value)):
            store.view(-1, new.shape[2]).index_copy_(0, index, new.reshape(-1, new.shape[2]))

    def reserve(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Allocate a layer, for keys and values like these, if it is not yet."""
        if layer not in self.keys:
            self.keys[layer] = self._allocate(key)
            self.values[layer] = self._allocate(value)

    def gather(self, layer: int, index: torch.Tensor, sequences: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, (sequences, kv heads, length, head size), of the blocks in `index`.

        They lie in memory that the next gather uses again: megabytes fresh from the system for each layer
        cost more in page faults than the copy itself.
        """
        found = []
        for kind, store in (("keys", self.keys[layer]), ("values", self.values[layer])):
            blocks, heads, size, width = store.shape
            out = self._room(kind, index.shape[0] * size * width, store).view(-1, size * width)
            torch.index_select(store.view(blocks * heads, size * width), 0, index, out=out)
            found.append(out.view(sequences, heads, -1, width))
        return found[0], found[1]

    def _room(self, kind: str, count: int, like: torch.Tensor) -> torch.Tensor:
        """`count` elements of scratch memory; grown by doubling."""
        scratch = self._scratch.get(kind)
        if scratch is None or scratch.numel() < count:
            scratch = torch.empty(1 << (count - 1).bit_length(), dtype=like.dtype, device=like.device)
            self._scratch[kind] = scratch
        return scratch[:count]

    def scrub(self, blocks: list[int]) -> None:
        """Zero these blocks, so that a non-finite value can never reach their next owner."""
        for stores in (self.keys, self.values):
            for store in stores.values():
                store[blocks] = 0

    def bytes(self) -> int:
        return sum(s.nbytes for stores in (self.keys, self.values) for s in stores.values())

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        shape = (self.blocks, like.shape[1], self.block_size, like.shape[2])
        return torch.zeros(shape, dtype=like.dtype, device=like.device)


@dataclass
class Segment:
    """A prefill chunk: step tokens `start:end`, after `context` cached tokens; `blocks` cover both."""

    start: int
    end: int
    context: int
    blocks: torch.Tensor
    _index: dict[int, torch.Tensor] = field(default_factory=dict)
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def index(self, heads: int) -> torch.Tensor:
        if heads not in self._index:
            self._index[heads] = by_head(self.blocks.unsqueeze(0), heads)
        return self._index[heads]

    def mask(self, window: int | None, device: torch.device) -> torch.Tensor:
        """(chunk, context + chunk), True where a query may look."""
        if window not in self._masks:
            total = self.context + self.end - self.start
            query = torch.arange(self.context, total, device=device).unsqueeze(1)
            key = torch.arange(total, device=device).unsqueeze(0)
            mask = key <= query
            if window is not None:
                mask &= key > query - window
            self._masks[window] = mask
        return self._masks[window]


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


@dataclass
class DecodeGroup(DecodeRows):
    """Rows that are read from their blocks; `blocks` is (sequences, most blocks)."""

    blocks: torch.Tensor
    _index: dict[int, torch.Tensor] = field(default_factory=dict, init=False)

    def read(self, cache: PagedCache, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, (sequences x kv heads, width, head size)."""
        heads = cache.keys[layer].shape[1]
        if heads not in self._index:
            self._index[heads] = by_head(self.blocks, heads)
        keys, values = cache.gather(layer, self._index[heads], self.end - self.start)
        return keys.flatten(0, 1), values.flatten(0, 1)


class Decoding(Protocol):
    """What a step decodes at once: `DecodeGroup`, or rows that are read from elsewhere."""

    start: int
    end: int

    def read(self, cache: PagedCache, layer: int) -> tuple[torch.Tensor, torch.Tensor]: ...

    def mask(self, heads: int, window: int | None, dtype: torch.dtype) -> torch.Tensor: ...


class Copies(Protocol):
    """Keeps what a step adds somewhere else, too; see `decode_slots`."""

    def write(self, cache: PagedCache, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Of (tokens, kv heads, head size); the cache's blocks have it already."""
        ...


@dataclass(frozen=True)
class Reading:
    """Decodes that are read in another order than their tokens lie in the step.

    `there` (decodes) is the token of each one that is read, `back` (decodes) the place in `there` of each token.
    """

    there: torch.Tensor
    back: torch.Tensor

    @classmethod
    def of(cls, there: torch.Tensor) -> Reading:
        return cls(there, there.argsort())


class Attend(Protocol):
    """A step's attention on a device that has kernels for it; see `gpu_attention`."""

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
        """Write the new keys and values and attend; tensors as in `paged_attention`, returns (T, heads, size)."""
        ...


@dataclass
class StepBatch:
    """Where each of a step's T tokens goes and what it looks at. `slots` is (T): block x block size + offset.

    With `attend`, a device's own kernels know the rest, and groups and segments are empty.
    """

    cache: PagedCache
    slots: torch.Tensor
    groups: Rows[Decoding]
    segments: list[Segment]
    attend: Attend | None = None
    copies: Copies | None = None
    reading: Reading | None = None
    layers_seen: set[int] = field(default_factory=set)
    _write: dict[int, torch.Tensor] = field(default_factory=dict)

    def write_index(self, heads: int) -> torch.Tensor:
        """(T x heads) rows of the cache seen as (blocks x heads x block size, head size)."""
        if heads not in self._write:
            size = self.cache.block_size
            block = torch.div(self.slots, size, rounding_mode="floor")
            first = block * (heads * size) + self.slots % size
            head = torch.arange(heads, device=self.slots.device) * size
            self._write[heads] = (first.unsqueeze(1) + head).reshape(-1)
        return self._write[heads]


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - the interface's; there is never one
    *,
    step: StepBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Write the new keys and values, then attend each token to its own sequence.

    `query` (1, heads, T, head size), `key` and `value` (1, kv heads, T, head size); returns (1, T, heads, size).
    """
    for name in UNSUPPORTED:
        if options.get(name) is not None:
            raise UnsupportedModel(
                f"{type(module).__name__} needs the attention option {name!r}, not served here"
            )
    layer: int = module.layer_idx  # type: ignore[assignment]
    step.layers_seen.add(layer)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    if step.attend is not None:
        return step.attend(step.cache, layer, query, key, value, scale, sliding_window).unsqueeze(0), None
    queries = query[0].transpose(0, 1)
    keys, values = key[0].transpose(0, 1), value[0].transpose(0, 1)
    step.cache.write(layer, keys, values, step)
    reading = step.reading
    if reading is not None:
        queries, keys, values = (each.index_select(0, reading.there) for each in (queries, keys, values))
    if step.copies is not None:
        step.copies.write(step.cache, layer, keys, values)
    parts = [_decode(step.cache, layer, group, queries, scale, sliding_window) for group in step.groups]
    if reading is not None:
        parts = [_one(parts).index_select(0, reading.back)]
    for segment in step.segments:
        parts.append(prefill(step.cache, layer, segment, query, key, value, scale, sliding_window))
    return _one(parts).unsqueeze(0), None


def _one(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _decode(
    cache: PagedCache,
    layer: int,
    group: Decoding,
    queries: torch.Tensor,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """One query a sequence: batched matmul over its keys and values, query heads of a kv head together."""
    heads = cache.keys[layer].shape[1]
    k, v = group.read(cache, layer)
    q = queries[group.start : group.end].reshape(k.shape[0], -1, k.shape[2])
    mask = group.mask(heads, window, q.dtype)
    scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=scale)
    return torch.bmm(scores.softmax(-1), v).view(group.end - group.start, -1, v.shape[2])


def prefill(
    cache: PagedCache,
    layer: int,
    segment: Segment,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """One sequence's chunk. Without a window no mask is built: cached part and causal part join by their sums."""
    place = slice(segment.start, segment.end)
    q, k, v = query[:, :, place], key[:, :, place], value[:, :, place]
    repeat = q.shape[1] // k.shape[1]
    total = segment.context + segment.end - segment.start
    windowed = window is not None and total > window
    if segment.context == 0 and not windowed:
        k, v = _repeat_heads(k, repeat), _repeat_heads(v, repeat)
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        return out[0].transpose(0, 1)
    all_k, all_v = cache.gather(layer, segment.index(k.shape[1]), 1)
    all_k, all_v = _repeat_heads(all_k[:, :, :total], repeat), _repeat_heads(all_v[:, :, :total], repeat)
    if windowed or q.device.type != "cpu" or q.shape[3] != all_v.shape[3]:
        mask = segment.mask(window, q.device)
        out = scaled_dot_product_attention(q, all_k, all_v, attn_mask=mask, scale=scale)
        return out[0].transpose(0, 1)
    return _joined(q, all_k, all_v, segment.context, scale)[0].transpose(0, 1)


def _joined(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, context: int, scale: float) -> torch.Tensor:
    """Attention to the cached part and to the chunk itself, weighed by their log-sum-exp (flash-attention 2)."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    before, before_sum = flash(q, k[:, :, :context], v[:, :, :context], 0.0, False, scale=scale)
    inside, inside_sum = flash(q, k[:, :, context:], v[:, :, context:], 0.0, True, scale=scale)
    weight = torch.sigmoid(before_sum - inside_sum).unsqueeze(-1).to(q.dtype)
    return torch.lerp(inside, before, weight)


def _repeat_heads(tensor: torch.Tensor, repeat: int) -> torch.Tensor:
    if repeat == 1:
        return tensor
    batch, heads, length, size = tensor.shape
    return tensor.unsqueeze(2).expand(batch, heads, repeat, length, size).reshape(batch, -1, length, size)


def by_head(blocks: torch.Tensor, heads: int) -> torch.Tensor:
    """(sequences, blocks) -> rows of the cache seen as (blocks x heads, ...), by sequence, head, block."""
    head = torch.arange(heads, device=blocks.device).view(1, heads, 1)
    return (blocks.unsqueeze(1) * heads + head).reshape(-1)


AttentionInterface.register(IMPLEMENTATION, paged_attention)
