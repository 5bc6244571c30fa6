"""What a card can do at most, measured: bytes a second and products a second, and what a model's steps need of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(function: Callable[[], object], device: str, repeats: int = 10) -> float:
    """The median of `repeats`, after two that do not count."""
    taken = []
    for turn in range(repeats + 2):
        wait(device)
        started = time.perf_counter()
        function()
        wait(device)
        if turn >= 2:
            taken.append(time.perf_counter() - started)
    return median(taken)


@dataclass(frozen=True)
class Limits:
    """Of one card: bytes a second of a large copy, read and written, and FLOP a second of a large product."""

    bandwidth: float
    flops: float

    @classmethod
    def measured(cls, device: str, dtype: torch.dtype, *, quick: bool) -> Limits:
        count = 1 << 20 if quick else 1 << 29
        source = torch.ones(count, dtype=torch.bfloat16, device=device)
        copied = seconds_of(partial(torch.empty_like(source).copy_, source), device)
        side = 256 if quick else 8192
        matrix = torch.randn(side, side, device=device).to(dtype)
        multiplied = seconds_of(partial(torch.matmul, matrix, matrix), device)
        return cls(2 * source.nbytes / copied, 2 * side**3 / multiplied)


@dataclass(frozen=True)
class Needs:
    """Of one model: bytes of the weights that a step reads, parameters that multiply, and cache bytes a token."""

    weight_bytes: int
    parameters: int
    token_bytes: int

    @classmethod
    def of(cls, model: Any) -> Needs:
        config = model.config
        embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        # A row of the embedding is looked up; where it is the output layer's too, all of it is multiplied.
        parameters = sum(p.numel() for p in model.parameters()) - (
            0 if embedding is output else embedding.numel()
        )
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = output.element_size()
        token = 2 * config.num_hidden_layers * config.num_key_value_heads * width * size
        return cls(parameters * size, parameters, token)

    def step(self, limits: Limits, rows: int, context: float) -> float:
        """Least seconds of a decode step of `rows` rows that see `context` tokens each."""
        moved = self.weight_bytes + rows * context * self.token_bytes
        return max(moved / limits.bandwidth, 2 * self.parameters * rows / limits.flops)

    def prefill(self, limits: Limits, tokens: int) -> float:
        """Least seconds of `tokens` of prompts; what attention adds is left out."""
        return 2 * self.parameters * tokens / limits.flops
