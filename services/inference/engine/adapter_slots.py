"""Adapters on a GPU: a decode step multiplies by all slots at once, then keeps each row's own.

Two products a layer, whatever adapters the rows use: nothing depends on the step but a tensor of slots, so that a
CUDA graph can hold it. Their cost is that of one adapter whose rank is the sum of all. Prefill chunks go one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.inference.engine.adapter_layer import LoraLayer, StepAdapters
from services.inference.engine.gpu_attention import sent


@dataclass
class SlotAdapters(StepAdapters):
    """Shared by all layers of one base.

    `own` (decodes, slots) is True at each row's slot, None where no decode has an adapter; `chunks` are (slot, start,
    end) of prefill chunks.
    """

    own: torch.Tensor | None = None
    chunks: tuple[tuple[int, int, int], ...] = ()

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
    """A linear layer plus low-rank products, of which no number of the step's is known while it is recorded."""

    step: SlotAdapters

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
