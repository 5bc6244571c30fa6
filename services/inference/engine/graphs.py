"""Decode steps recorded as CUDA graphs, one a batch size: the GPU is given a whole step by one call.

Inputs lie in one buffer that every graph reads; a step of fewer rows is filled up with padding that writes to the
padding block. Knows no model: what is recorded, and how, is handed in. Never run on a GPU so far.
Because a step is recorded, adapters on a GPU have slots and every row is multiplied by all of them, where on a CPU rows
are grouped by adapter.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from services.inference.engine.gpu_attention import GpuStep, Kernels, sent
from services.inference.engine.paged_decode import Decodes
from services.inference.engine.scheduler import Row

log = logging.getLogger(__name__)

_SMALL = (1, 2, 4, 8)
_STRIDE = 16
# Runs before a recording: kernels are compiled and libraries take their workspaces.
_WARM_UP = 2


@dataclass(frozen=True)
class Inputs:
    """What a decode step of R rows reads, all (R) and on the device; `adapters` are slots, -1 for none."""

    ids: torch.Tensor
    positions: torch.Tensor
    adapters: torch.Tensor
    step: GpuStep


Outputs = tuple[torch.Tensor, torch.Tensor]
Compute = Callable[[Inputs, bool], Outputs]


class Replay(Protocol):
    """A recorded computation: `outputs` hold what the last call computed, until the next of any graph."""

    outputs: Outputs

    def __call__(self) -> None: ...


Record = Callable[[Callable[[], Outputs]], Replay]


@dataclass(frozen=True)
class DecodeRow:
    """One token of one sequence at `position`, with the sequence's `blocks` up to and with it."""

    token: int
    position: int
    slot: int
    blocks: Sequence[int]
    adapter: int

    @classmethod
    def of(cls, row: Row, block_size: int, adapter: int) -> DecodeRow:
        """A planned row of one token; `adapter` is a slot, -1 for none."""
        sequence, (block, offset) = row.sequence, divmod(row.start, block_size)
        slot = sequence.blocks[block] * block_size + offset
        return cls(sequence.tokens[row.start], row.start, slot, sequence.blocks[: block + 1], adapter)


def sizes_up_to(most: int) -> tuple[int, ...]:
    """1, 2, 4, 8, then every 16, and `most` itself."""
    sizes = [size for size in (*_SMALL, *range(_STRIDE, most, _STRIDE)) if size < most]
    return (*sizes, most)


def packed(rows: Sequence[DecodeRow], size: int) -> list[int]:
    """The numbers of a step of `size` rows, as `inputs_at` finds them again."""
    padding = [0] * (size - len(rows))
    starts: list[int] = []
    blocks: list[int] = []
    for row in rows:
        starts.append(len(blocks))
        blocks += row.blocks
    return [
        *(row.token for row in rows),
        *padding,
        *(row.position for row in rows),
        *padding,
        *(row.slot for row in rows),
        *padding,
        *(row.position + 1 for row in rows),
        *padding,
        *starts,
        *padding,
        *(row.adapter for row in rows),
        *([-1] * len(padding)),
        *blocks,
    ]


def inputs_at(flat: torch.Tensor, size: int, kernels: Kernels) -> Inputs:
    """The step whose numbers `flat` holds; its tensors are views of it."""
    ids, positions, slots, lengths, starts, adapters = flat[: 6 * size].view(6, size)
    step = GpuStep(kernels, slots, Decodes(lengths, starts, flat[6 * size :]), None)
    return Inputs(ids, positions, adapters, step)


class DecodeGraphs:
    """Recorded steps of up to `max_rows` rows. What cannot be recorded is left to the caller, and said once."""

    def __init__(
        self,
        compute: Compute,
        record: Record,
        kernels: Kernels,
        *,
        max_rows: int,
        max_blocks: int,
        device: torch.device,
    ) -> None:
        """`compute` is told whether the step has adapters; `max_blocks` is what one row may have."""
        self._compute = compute
        self._record = record
        self._kernels = kernels
        self._sizes = sizes_up_to(max_rows)
        # Zeros are rows of length 0, which write to the padding block.
        self._flat = torch.zeros(max_rows * (6 + max_blocks), dtype=torch.long, device=device)
        self._graphs: dict[tuple[int, bool], Replay] = {}
        self._version = 0

    @property
    def enabled(self) -> bool:
        return bool(self._sizes)

    def warm_up(self) -> None:
        """Record every size without adapters, the largest first, whose memory the others share."""
        started = time.monotonic()
        for done, size in enumerate(reversed(self._sizes), 1):
            if self._graph(size, adapters=False) is None:
                return
            took = time.monotonic() - started
            log.info("recorded steps: %d rows, %d of %d, %.1f s", size, done, len(self._sizes), took)

    def run(self, rows: Sequence[DecodeRow], version: int) -> Outputs | None:
        """Compute the rows: what `compute` returns, cut to them; None where no graph fits.

        A new `version` says that the layers of adapters have changed, and with them what was recorded of them.
        """
        size = next((size for size in self._sizes if size >= len(rows)), None)
        if size is None:
            return None
        if version != self._version:
            self._graphs = {key: graph for key, graph in self._graphs.items() if not key[1]}
            self._version = version
        numbers = sent(packed(rows, size), torch.device("cpu"))
        if self._flat.device.type == "cuda":
            numbers = numbers.pin_memory()
        self._flat[: len(numbers)].copy_(numbers, non_blocking=True)
        graph = self._graph(size, adapters=any(row.adapter >= 0 for row in rows))
        if graph is None:
            return None
        graph()
        logits, hidden = graph.outputs
        return logits[: len(rows)], hidden[: len(rows)]

    def _graph(self, size: int, *, adapters: bool) -> Replay | None:
        key = (size, adapters)
        if key not in self._graphs:
            inputs = inputs_at(self._flat, size, self._kernels)
            try:
                self._graphs[key] = self._record(lambda: self._compute(inputs, adapters))
            except Exception as exc:
                # Some models decide on the CPU what the GPU does next.
                log.warning("no recorded steps: one of %d rows fails", size, exc_info=exc)
                self._sizes = ()
                self._graphs.clear()
                return None
        return self._graphs[key]


class _CudaGraph:
    def __init__(self, graph: torch.cuda.CUDAGraph, outputs: Outputs) -> None:
        self._graph = graph
        self.outputs = outputs

    def __call__(self) -> None:
        self._graph.replay()


class CudaRecorder:
    """Records on a stream of its own; all its graphs share memory, as only one of them runs at a time."""

    # Torch allows one recording at a time in a process; a base may be loaded while another records.
    _one_at_a_time = threading.Lock()

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def __call__(self, function: Callable[[], Outputs]) -> Replay:
        with self._one_at_a_time:
            return self._recorded(function)

    def _recorded(self, function: Callable[[], Outputs]) -> Replay:
        stream = self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # What other threads do meanwhile, such as allocating for a base that is being loaded, is no part of it.
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            outputs = function()
        self._pool = self._pool or graph.pool()
        return _CudaGraph(graph, outputs)
