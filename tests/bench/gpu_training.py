"""Fine-tuning on one GPU: packed LoRA against the card's products, and against the same rows padded.

Row 11 and 12. The attention, the loss and the packs are the platform's; the adapter is written here, as a bare machine
has no PEFT.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from services.training.tuning import attention, losses
from services.training.tuning.choices import Shape
from services.training.tuning.packing import fill, pack_order
from tests.bench.figures import Figure
from tests.bench.gpu_limits import wait

if TYPE_CHECKING:
    from tests.bench.gpu import Bench

RANK = 16
Batch = dict[str, Any]


class Lora(nn.Module):
    """y = Wx + B(Ax): A and B in float32, computed in the type of x."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        device = base.weight.device
        self.base = base
        self.a = nn.Parameter(torch.randn(RANK, base.in_features, device=device) * base.in_features**-0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, RANK, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))


def training(bench: Bench) -> list[Figure]:
    """Rows 11 and 12."""
    sequences = _sequences(bench)
    lengths = [len(s) for s in sequences]
    capacity = max(max(lengths), bench.size.packed)
    (packs,) = pack_order(lengths, 1, capacity, seed=1)
    rows = max(1, round(capacity * len(lengths) / sum(lengths)))
    full = fill(lengths, rows)
    packed = [_packed([sequences[row] for row in pack], bench.device) for pack in packs]
    padded = [
        _padded(sequences[at : at + rows], bench.device) for at in range(0, len(lengths) - rows + 1, rows)
    ]
    trained = _Trained(bench, capacity)
    rates: dict[str, list[float]] = {"packed": [], "padded": []}
    for _ in range(3):
        # In turns, so that a card that slows down as it warms slows both.
        rates["padded"].append(trained.rate(padded, packed=False))
        rates["packed"].append(trained.rate(packed, packed=True))
    rate, plain = median(rates["packed"]), median(rates["padded"])
    # Frozen weights take a product forward and one for the gradient of their inputs; attention sees half a square.
    squares = sum(length**2 for length in lengths) / sum(lengths)
    config = bench.config
    flops = 4 * bench.needs.parameters + 6 * config.num_hidden_layers * config.hidden_size * squares
    again = "; activations computed twice, which does not count" if trained.checkpointing else ""
    how = f"rank {RANK} on every layer, packs of {capacity} tokens"
    return [
        Figure(
            f"{bench.name}_lora_packed",
            rate * flops / 1e12,
            "TFLOP/s",
            "a large product",
            bench.limits.flops / 1e12,
            f"{how}, {rate:,.0f} tokens/s{again}; good 0.40, goal 0.60",
        ),
        Figure(
            f"{bench.name}_packed_vs_padded",
            rate,
            "useful tokens/s",
            f"padded batches that are {full:.0%} full, were they quite full",
            plain / full,
            f"{how}, padded {rows} rows a step; good 0.85, goal 0.97",
        ),
    ]


class _Trained:
    """A model with adapters and their optimizer."""

    def __init__(self, bench: Bench, tokens: int) -> None:
        self._device = bench.device
        self._model = bench.model().train()
        self._model.requires_grad_(False)
        for name, module in list(self._model.named_modules()):
            if isinstance(module, nn.Linear) and module is not self._model.get_output_embeddings():
                parent, _, last = name.rpartition(".")
                setattr(self._model.get_submodule(parent), last, Lora(module))
        losses.install(self._model)
        self._optimizer = torch.optim.AdamW(
            [p for p in self._model.parameters() if p.requires_grad], lr=1e-4, fused=True
        )
        config = bench.config
        shape = Shape(config.num_hidden_layers, config.hidden_size, config.intermediate_size)
        width = getattr(torch, bench.dtype).itemsize
        # A padded batch has as many positions as a pack, or more.
        needs = 2 * tokens * shape.token_bytes(width, checkpointing=False)
        self.checkpointing = bench.device == "cuda" and needs > 0.8 * torch.cuda.mem_get_info()[0]
        if self.checkpointing:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})

    def rate(self, batches: Sequence[Batch], *, packed: bool) -> float:
        """Useful tokens a second over all batches but the first, which warms up."""
        self._model.set_attn_implementation(attention.NAME if packed else "sdpa")
        self._step(batches[0])
        wait(self._device)
        began = time.perf_counter()
        for batch in batches[1:] or batches:
            self._step(batch)
        wait(self._device)
        counted = sum(batch["useful"] for batch in batches[1:] or batches)
        return float(counted / (time.perf_counter() - began))

    def _step(self, batch: Batch) -> None:
        given = {name: value for name, value in batch.items() if name not in ("useful", "labels")}
        total, _, count = self._model(**given, learned=batch["labels"], loss=losses.Loss("cross_entropy"))
        (total / count).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()


def _sequences(bench: Bench) -> list[list[int]]:
    """Of lengths as those of conversations: most are short, some long."""
    dice = np.random.default_rng(0)
    longest = bench.size.packed // 2
    lengths = np.clip(dice.lognormal(np.log(longest / 6), 0.8, bench.size.sequences).astype(int), 4, longest)
    return [dice.integers(3, bench.config.vocab_size, length).tolist() for length in lengths.tolist()]


def _packed(sequences: Sequence[Sequence[int]], device: str) -> Batch:
    lengths = torch.tensor([len(s) for s in sequences])
    ids = torch.cat([torch.tensor(s) for s in sequences])[None]
    labels = ids.clone()
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    labels[0, ends[:-1]] = losses.IGNORED
    places = torch.cat([torch.arange(len(s)) for s in sequences])[None]
    return {
        "input_ids": ids.to(device),
        "labels": labels.to(device),
        "position_ids": places.to(device),
        "cu_seq_lens_q": ends.to(torch.int32).to(device),
        "max_length_q": int(lengths.max()),
        "useful": int(ids.numel()),
    }


def _padded(sequences: Sequence[Sequence[int]], device: str) -> Batch:
    longest = max(len(s) for s in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.int64)
    labels = torch.full_like(ids, losses.IGNORED)
    for place, sequence in enumerate(sequences):
        ids[place, : len(sequence)] = labels[place, : len(sequence)] = torch.tensor(sequence)
    useful = sum(len(s) for s in sequences)
    return {"input_ids": ids.to(device), "labels": labels.to(device), "useful": useful}
