"""Adapters on a GPU: each has a slot, and a decode step multiplies by all slots at once, then keeps each row's own.

Two products a layer, whatever adapters the rows use: nothing depends on the step but a tensor of slots, so that a
CUDA graph can hold it. Their cost is that of one adapter whose rank is the sum of all. Prefill chunks go one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from services.inference.engine.adapters import LoraLayer, StepAdapters
from services.inference.engine.gpu_attention import sent

_LEAST_RANK = 8


@dataclass
class SlotAdapters(StepAdapters):
    """Shared by all layers of one base. `version` changes when what a graph holds does: layers, tensors, `capacity`.

    `capacity` counts slots, free ones too; it grows by doubling, so that layers seldom grow, and never shrinks.
    `own` (decodes, slots) is True at each row's slot, None where no decode has an adapter; `chunks` are (slot, start,
    end) of prefill chunks.
    """

    version: int = 0
    own: torch.Tensor | None = None
    chunks: tuple[tuple[int, int, int], ...] = ()
    slots: dict[str, int] = field(default_factory=dict)
    capacity: int = 1

    def slot(self, name: str) -> int:
        """The adapter's slot; the lowest free one if it has none yet."""
        if name not in self.slots:
            taken = set(self.slots.values())
            self.slots[name] = next(slot for slot in range(len(taken) + 1) if slot not in taken)
            if self.slots[name] >= self.capacity:
                self.capacity *= 2
                self.version += 1
        return self.slots[name]

    def forget(self, name: str) -> None:
        self.slots.pop(name, None)

    def slots_of(self, names: list[str | None]) -> list[int]:
        return [-1 if name is None else self.slots[name] for name in names]

    def set(self, names: list[str | None], counts: list[int], device: torch.device) -> None:
        """One name a row, and how many tokens the row has; rows of one token come first."""
        decodes = next((place for place, count in enumerate(counts) if count > 1), len(counts))
        own = self.slots_of(names[:decodes])
        self.use(sent(own, device) if any(slot >= 0 for slot in own) else None)
        chunks, start = [], decodes
        for name, count in zip(names[decodes:], counts[decodes:], strict=True):
            if name is not None:
                chunks.append((self.slots[name], start, start + count))
            start += count
        self.chunks = tuple(chunks)

    def use(self, slots: torch.Tensor | None) -> None:
        """The slot of each decode, -1 for none, on the device; no prefill."""
        self.chunks = ()
        self.own = None
        if slots is not None:
            self.own = slots.unsqueeze(1) == torch.arange(self.capacity, device=slots.device)


class SlotLoraLayer(LoraLayer):
    """A linear layer plus low-rank products. `a` is (slots, rank, in) and `b` (slots, rank, out), zeros where free."""

    step: SlotAdapters

    def __init__(self, base: nn.Module, step: SlotAdapters) -> None:
        super().__init__(base, step)
        self.a: torch.Tensor | None = None
        self.b: torch.Tensor | None = None
        step.version += 1

    def install(self, name: str, matrices: tuple[torch.Tensor, torch.Tensor]) -> None:
        down, up = matrices[0], matrices[1].t()
        slot = self.step.slot(name)
        self.a = self._with_room(self.a, slot, down)
        self.b = self._with_room(self.b, slot, up)
        for store, matrix in ((self.a, down), (self.b, up)):
            store[slot] = 0
            store[slot, : len(matrix)] = matrix

    def remove(self, name: str) -> None:
        slot = self.step.slots[name]
        if self.a is not None and self.b is not None and slot < len(self.a):
            self.a[slot] = 0
            self.b[slot] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x)
        own, a, b = self.step.own, self.a, self.b
        if a is None or b is None or (own is None and not self.step.chunks):
            return out
        flat, added = x.flatten(0, -2), out.flatten(0, -2)
        if own is not None:
            count, slots = len(own), len(a)
            small = (flat[:count] @ a.flatten(0, 1).t()).view(count, slots, -1)
            # Of another row's adapter not even an overflow may come through.
            small = small.masked_fill(~own[:, :slots].unsqueeze(2), 0)
            added[:count].addmm_(small.view(count, -1), b.flatten(0, 1))
        for slot, start, end in self.step.chunks:
            if slot < len(a):
                added[start:end].addmm_(flat[start:end] @ a[slot].t(), b[slot])
        return added.view_as(out)

    def _with_room(self, store: torch.Tensor | None, slot: int, matrix: torch.Tensor) -> torch.Tensor:
        """The store, or a larger one that begins with it, where the matrix (rank, features) fits at `slot`."""
        slots, rank = (0, _LEAST_RANK) if store is None else store.shape[:2]
        if store is not None and slot < slots and len(matrix) <= rank:
            return store
        self.step.version += 1
        slots = self.step.capacity
        rank = max(rank, 1 << (len(matrix) - 1).bit_length())
        grown = matrix.new_zeros(slots, rank, matrix.shape[1])
        if store is not None:
            grown[: store.shape[0], : store.shape[1]] = store
        return grown
