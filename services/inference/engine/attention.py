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

from services.inference.engine.decode_rows import Decoding, decode
from services.inference.engine.paged_cache import PagedCache, by_head
from shared.errors import HeliuError

IMPLEMENTATION = "heliu_paged"

# What some models add to the scores; a model that passes one of these is refused at load, by name.
UNSUPPORTED = ("softcap", "s_aux", "position_bias", "head_mask")


class UnsupportedModel(HeliuError):
    """This architecture, or an option of it, cannot be served."""

    code = "model_unsupported"


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
    step.cache.write(layer, keys, values, step.write_index(keys.shape[1]))
    reading = step.reading
    if reading is not None:
        queries, keys, values = (each.index_select(0, reading.there) for each in (queries, keys, values))
    if step.copies is not None:
        step.copies.write(step.cache, layer, keys, values)
    parts = [decode(step.cache, layer, group, queries, scale, sliding_window) for group in step.groups]
    if reading is not None:
        parts = [_one(parts).index_select(0, reading.back)]
    for segment in step.segments:
        parts.append(prefill(step.cache, layer, segment, query, key, value, scale, sliding_window))
    return _one(parts).unsqueeze(0), None


def _one(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


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


AttentionInterface.register(IMPLEMENTATION, paged_attention)
