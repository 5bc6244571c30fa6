"""Linear layers with the low-rank matrices of many adapters beside them, and which of these each token of a step uses.

An adapter has one slot in all layers of its base. The tokens of one adapter should lie together: those of adapters
whose slots follow one another, and which have as many tokens each, are one batched product, which is added to where
they lie. Nothing is gathered. Any other order of tokens gives the same, more slowly. Knows no request and no row.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import nn

_LEAST_RANK = 8


@dataclass(frozen=True)
class Run:
    """`count` adapters from slot `slot` on: each has the next `each` tokens of the step, from token `start`."""

    slot: int
    count: int
    start: int
    each: int

    def goes_on(self, slot: int, start: int, each: int) -> bool:
        """The adapter of `slot`, with `each` tokens from `start`, is the next of this run."""
        end = self.start + self.count * self.each
        return (self.slot + self.count, end, self.each) == (slot, start, each)


@dataclass
class StepAdapters:
    """Shared by all layers of one base: each adapter's slot, and, set before a forward pass, the `runs` of its tokens.

    `capacity` counts slots, free ones too; it grows by doubling, so that layers seldom grow, and never shrinks.
    `version` changes when what a recorded step holds does: layers, tensors, `capacity`.
    """

    slots: dict[str, int] = field(default_factory=dict)
    capacity: int = 1
    version: int = 0
    runs: tuple[Run, ...] = ()

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
        """-1 for none."""
        return [-1 if name is None else self.slots[name] for name in names]

    def set(self, names: list[str | None], counts: list[int], device: torch.device) -> None:  # noqa: ARG002 - a GPU's
        """One name a row, and how many tokens the row has."""
        whole: list[tuple[int, int, int]] = []
        start = 0
        for slot, count in zip(self.slots_of(names), counts, strict=True):
            if whole and whole[-1][0] == slot:
                whole[-1] = (slot, whole[-1][1], whole[-1][2] + count)
            else:
                whole.append((slot, start, count))
            start += count
        runs: list[Run] = []
        for slot, start, each in whole:
            if slot < 0:
                continue
            if runs and runs[-1].goes_on(slot, start, each):
                runs[-1] = replace(runs[-1], count=runs[-1].count + 1)
            else:
                runs.append(Run(slot, 1, start, each))
        self.runs = tuple(runs)


class LoraLayer(nn.Module):
    """A linear layer plus the low-rank products of whichever adapters its tokens use.

    `a` is (slots, rank, in) and `b` (slots, rank, out), zeros past an adapter's own rank and where a slot is free;
    `ranks` are the adapters' own, 0 where a slot is free.
    """

    def __init__(self, base: nn.Module, step: StepAdapters) -> None:
        super().__init__()
        self.base = base
        self.step = step
        self.a: torch.Tensor | None = None
        self.b: torch.Tensor | None = None
        self.ranks: list[int] = []
        step.version += 1

    def bytes(self) -> int:
        return sum(store.nbytes for store in (self.a, self.b) if store is not None)

    def install(self, name: str, matrices: tuple[torch.Tensor, torch.Tensor]) -> None:
        """A (rank, in) and B (out, rank) of an adapter, its scaling in B."""
        down, up = matrices[0], matrices[1].t()
        slot = self.step.slot(name)
        self.a = self._with_room(self.a, slot, down)
        self.b = self._with_room(self.b, slot, up)
        for store, matrix in ((self.a, down), (self.b, up)):
            store[slot] = 0
            store[slot, : len(matrix)] = matrix
        self.ranks += [0] * (len(self.a) - len(self.ranks))
        self.ranks[slot] = len(down)

    def remove(self, name: str) -> None:
        slot = self.step.slots[name]
        if self.a is not None and self.b is not None and slot < len(self.a):
            self.a[slot] = 0
            self.b[slot] = 0
            self.ranks[slot] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x)
        a, b = self.a, self.b
        if a is None or b is None or not self.step.runs:
            return out
        flat, added = x.flatten(0, -2), out.flatten(0, -2)
        for run in self.step.runs:
            # Adapters that came after the last one with matrices for this layer have no slot in it.
            slot, count = run.slot, min(run.count, len(self.ranks) - run.slot)
            rank = max(self.ranks[slot : slot + count], default=0) if count > 0 else 0
            if not rank:
                continue
            place = slice(run.start, run.start + count * run.each)
            if count == 1:
                small = flat[place] @ a[slot, :rank].t()
                added[place].addmm_(small, b[slot, :rank])
            else:
                some = slice(slot, slot + count)
                small = torch.bmm(flat[place].view(count, run.each, -1), a[some, :rank].transpose(1, 2))
                added[place].view(count, run.each, -1).baddbmm_(small, b[some, :rank])
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
