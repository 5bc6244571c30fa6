"""Keys and values of decoding sequences once more, each sequence's in one piece: a decode on CPU reads them in place.

Blocks stay the truth, and are what prefixes share; a slot is filled from them when a sequence begins to decode, and
takes one token a step after that. Without slots each step copies all keys and values together, which for long
sequences costs more than attending to them. Knows sequences and layers, nothing of scheduling.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch

from services.inference.engine.blocks import PADDING_BLOCK
from services.inference.engine.decode_rows import DecodeRows
from services.inference.engine.paged_cache import PagedCache, by_head
from services.inference.engine.scheduler import Sequence

# Padding in tokens that costs about as much as one more round of small matmuls does.
_WASTE = 2_048
# Slots are put in order of length again when padding costs this much more than it would then.
_DISORDER = 1.3
# What is copied from blocks at once, which bounds the memory that it takes.
_FILL_TOKENS = 4_096


def cut(lengths: Rows[int], *, waste: int, most: int | None = None) -> list[tuple[int, int]]:
    """Runs (start, end) of `lengths` whose padding to the longest is at most `waste` tokens, and their size `most`."""
    runs: list[tuple[int, int]] = []
    start, longest, useful = 0, 0, 0
    for place, length in enumerate(lengths):
        padded = max(longest, length) * (place + 1 - start)
        if place > start and (padded - useful - length > waste or (most is not None and padded > most)):
            runs.append((start, place))
            start, longest, useful = place, 0, 0
        longest, useful = max(longest, length), useful + length
    if lengths:
        runs.append((start, len(lengths)))
    return runs


@dataclass
class SlotGroup(DecodeRows):
    """Rows whose slots follow one another from `start`: a placed row's slot is its number in the step."""

    slots: DecodeSlots

    def keys(self, _: PagedCache, layer: int) -> torch.Tensor:
        return self.slots.keys[layer][self.start : self.end, :, : self.width].flatten(0, 1)

    def values(self, _: PagedCache, layer: int) -> torch.Tensor:
        return self.slots.values[layer][self.start : self.end, :, : self.width].flatten(0, 1)

    def value_table(self, _: PagedCache, layer: int) -> torch.Tensor:
        return self.slots.values[layer]

    def rows(self, heads: int, tokens: int) -> torch.Tensor:
        first = torch.arange(self.start * heads, self.end * heads).unsqueeze(1) * tokens
        return first + torch.arange(self.width)


@dataclass
class _Fill:
    """`slots` (n) that are copied, `width` tokens each, from their `blocks` (n, most blocks)."""

    slots: torch.Tensor
    blocks: torch.Tensor
    width: int


@dataclass
class SlotStep:
    """What a step adds to the slots: whole sequences, and one token to those of `rows`, at `positions` (rows)."""

    slots: DecodeSlots
    groups: list[SlotGroup]
    fills: list[_Fill]
    rows: torch.Tensor
    positions: torch.Tensor
    _index: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict, init=False)

    def write(self, cache: PagedCache, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Of (tokens, kv heads, head size), which the cache's blocks have already."""
        self.slots.write(self, cache, layer, key, value)

    def index(self, heads: int, tokens: int) -> torch.Tensor:
        """(rows x heads) places of the new tokens in the slots seen as (slots x heads x tokens, head size)."""
        if (heads, tokens) not in self._index:
            first = self.rows * (heads * tokens) + self.positions
            self._index[heads, tokens] = (first.unsqueeze(1) + torch.arange(heads) * tokens).reshape(-1)
        return self._index[heads, tokens]


class DecodeSlots:
    """At most `most` slots of at most `longest` tokens; longer sequences have none and are read from their blocks.

    Those in use are always the first ones. `keys` and `values` are by layer, (slots, kv heads, tokens, head size), of
    which groups read views. A step that failed leaves them half written: `clear` them. Not thread-safe.
    """

    def __init__(self, most: int, longest: int, block_size: int) -> None:
        self._most = most
        self._longest = longest // block_size * block_size
        self._block_size = block_size
        self._order: list[Sequence] = []
        # Tokens whose keys and values are in the sequence's slot.
        self._filled: dict[Sequence, int] = {}
        self._count, self._tokens = 0, 0
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}

    def bytes(self) -> int:
        return sum(t.nbytes for stores in (self.keys, self.values) for t in stores.values())

    def clear(self) -> None:
        """Forget everything that was copied, values that are not finite with it."""
        self._order, self._filled, self._count, self._tokens = [], {}, 0, 0
        self.keys.clear()
        self.values.clear()

    def place(self, sequences: Rows[Sequence]) -> list[Sequence]:
        """Give the sequences of a step slots; returns those that have one, by slot. Twice the same is the same.

        Who leaves makes room for who comes, and then for the last ones.
        """
        wanted = dict.fromkeys([s for s in sequences if _length(s) <= self._longest][: self._most])
        stay = [s if s in wanted else None for s in self._order]
        moved = [s for s in stay[len(wanted) :] if s is not None]
        new = sorted((s for s in wanted if s not in self._filled), key=_length) + moved
        order = [s or new.pop() for s in [*stay, *[None] * len(wanted)][: len(wanted)]]
        by_length = sorted(order, key=_length)
        if _cost(order) > _DISORDER * _cost(by_length):
            order = by_length
        before = dict(zip(self._order, range(len(self._order)), strict=True))
        self._filled = {s: self._filled[s] if before.get(s) == slot else 0 for slot, s in enumerate(order)}
        self._order = order
        self._make_room()
        return list(order)

    def step(self) -> SlotStep:
        """What the step does that begins with the placed sequences, one token each. A step may be repeated."""
        added: list[int] = []
        fresh: list[int] = []
        for slot, sequence in enumerate(self._order):
            (added if self._filled[sequence] >= sequence.computed > 0 else fresh).append(slot)
            self._filled[sequence] = _length(sequence)
        lengths = [_length(sequence) for sequence in self._order]
        groups = [
            SlotGroup(start, end, torch.tensor(lengths[start:end]), longest, self._rounded(longest), self)
            for start, end in cut(lengths, waste=_WASTE)
            for longest in [max(lengths[start:end])]
        ]
        rows, positions = torch.tensor([added, [lengths[slot] - 1 for slot in added]], dtype=torch.long)
        return SlotStep(self, groups, self._fills(fresh), rows, positions)

    def write(
        self, step: SlotStep, cache: PagedCache, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """Store what a step adds; see `SlotStep.write`."""
        for stores, new in ((self.keys, key), (self.values, value)):
            heads, width = new.shape[1:]
            if layer not in stores:
                stores[layer] = new.new_zeros(self._count, heads, self._tokens, width)
            if len(step.rows):
                some = new[: len(step.rows)] if not step.fills else new[step.rows]
                index = step.index(heads, self._tokens)
                stores[layer].view(-1, width).index_copy_(0, index, some.reshape(-1, width))
        for fill in step.fills:
            found = cache.gather(layer, by_head(fill.blocks, key.shape[1]), len(fill.slots))
            for store, whole in zip((self.keys[layer], self.values[layer]), found, strict=True):
                store[:, :, : fill.width].index_copy_(0, fill.slots, whole)

    def _fills(self, slots: list[int]) -> list[_Fill]:
        slots = sorted(slots, key=lambda slot: _length(self._order[slot]))
        lengths = [_length(self._order[slot]) for slot in slots]
        fills = []
        for start, end in cut(lengths, waste=_WASTE, most=_FILL_TOKENS):
            width = self._rounded(lengths[end - 1])
            count = width // self._block_size
            tables = [self._order[slot].blocks[:count] for slot in slots[start:end]]
            padded = [table + [PADDING_BLOCK] * (count - len(table)) for table in tables]
            fills.append(_Fill(torch.tensor(slots[start:end]), torch.tensor(padded), width))
        return fills

    def _make_room(self) -> None:
        """Have as many slots and as long as needed: by doubling, since what was there is copied again."""
        needed = self._rounded(max(map(_length, self._order), default=0))
        count, tokens = self._count, self._tokens
        while count < len(self._order):
            count = min(max(2 * count, 4), self._most)
        while tokens < needed:
            tokens = min(max(2 * tokens, 4 * self._block_size), self._longest)
        if (count, tokens) != (self._count, self._tokens):
            self.keys.clear()
            self.values.clear()
            self._count, self._tokens = count, tokens
            self._filled = dict.fromkeys(self._order, 0)

    def _rounded(self, length: int) -> int:
        return -(-length // self._block_size) * self._block_size


def _length(sequence: Sequence) -> int:
    """Tokens that its next one attends to, itself included."""
    return sequence.computed + 1


def _cost(order: Rows[Sequence]) -> int:
    """Tokens that are attended to, padding included."""
    lengths = [_length(sequence) for sequence in order]
    return sum(max(lengths[start:end]) * (end - start) for start, end in cut(lengths, waste=_WASTE))
