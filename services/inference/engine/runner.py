"""Runs forward passes of one base over planned rows: builds the step's tensors, returns logits to sample from.

Knows the model, its cache and its adapters; nothing of requests, text or which row comes next.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence as Rows
from itertools import pairwise
from typing import Any

import torch

from services.inference.engine.accelerator import Accelerator, accelerator_of
from services.inference.engine.adapter_layer import LoraLayer, StepAdapters
from services.inference.engine.adapter_slots import SlotAdapters, SlotLoraLayer
from services.inference.engine.adapters import AdapterStore
from services.inference.engine.attention import (
    IMPLEMENTATION,
    Reading,
    Segment,
    StepBatch,
    UnsupportedModel,
)
from services.inference.engine.blocks import BlockAllocator
from services.inference.engine.decode_slots import DecodeSlots
from services.inference.engine.gpu_attention import GpuStep, chunks_of, decodes_of, sent
from services.inference.engine.graphs import DecodeGraphs, DecodeRow, Inputs, Outputs
from services.inference.engine.linear import pack_linears
from services.inference.engine.loading import load_model
from services.inference.engine.order import Order, ordered
from services.inference.engine.paged_cache import PagedCache
from services.inference.engine.request import EngineConfig, Priority
from services.inference.engine.scheduler import Row, Sequence
from shared.errors import HeliuError

log = logging.getLogger(__name__)

_PROBE_TOKENS = 9
# How far paged attention may be from the model's own, as a share of the logits' size, in 16 bits.
_HALF_TOLERANCE = 0.1


class ModelRunner:
    """One base in memory with its KV cache. Not thread-safe."""

    def __init__(self, model: Any, config: EngineConfig, accelerator: Accelerator | None = None) -> None:
        """Take over `model`. Raises UnsupportedModel when paged attention does not give what the model does.

        `accelerator` is for tests; by itself it is the device's.
        """
        self.device = torch.device(config.device)
        self.accelerator = accelerator or accelerator_of(self.device)
        self._model = model
        # Enough for the probe: how much fits is known when the model has shown the shape of its cache.
        self.cache = PagedCache(0, config.block_size)
        self._make_cache(config.block_size + _PROBE_TOKENS, config.block_size)
        text_config = model.config.get_text_config()
        self.vocabulary: int = model.get_output_embeddings().weight.shape[0]
        self.embeddings: int = model.get_input_embeddings().weight.shape[0]
        positions: int | None = getattr(text_config, "max_position_embeddings", None)
        self._layers: int = text_config.num_hidden_layers
        self.width: int = model.get_output_embeddings().weight.shape[1]
        self._slots: DecodeSlots | None = None
        self._take_over(config, min(_PROBE_TOKENS, positions or _PROBE_TOKENS))
        self._make_cache(self._cache_tokens(config), config.block_size)
        self.context: int = positions or self.allocator.capacity_tokens
        if self.device.type == "cpu" and self.accelerator is None:
            longest = self.allocator.capacity_tokens // config.max_slots
            self._slots = DecodeSlots(config.max_slots, longest, config.block_size)
        # (1, rows, width): what the last forward's logits were made of.
        self._hidden: torch.Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._keep_hidden)
        self._slot_adapters = SlotAdapters() if self.accelerator is not None else None
        self.step_adapters = self._slot_adapters or StepAdapters()
        layer = LoraLayer if self._slot_adapters is None else SlotLoraLayer
        self.adapters = AdapterStore(model, self.step_adapters, config.max_adapters, layer)
        self._graphs = self._decode_graphs(config)

    @classmethod
    def load(cls, path: str, config: EngineConfig) -> ModelRunner:
        """Load a base from a folder. Raises UnsafeModel, BrokenModel or UnsupportedModel."""
        return cls(load_model(path, dtype=config.dtype, device=config.device), config)

    def bytes(self) -> int:
        """Memory of the cache, the adapters and (about) the weights."""
        weights = sum(p.nbytes for p in self._model.parameters()) + self._packed_bytes
        slots = self._slots.bytes() if self._slots is not None else 0
        return int(weights + self.cache.bytes() + slots + self.adapters.bytes())

    def scrub(self, blocks: list[int]) -> None:
        """Zero what these blocks held, wherever it is."""
        self.cache.scrub(blocks)
        if self._slots is not None:
            self._slots.clear()

    @property
    def records(self) -> bool:
        """Decode steps are recorded and given to the GPU whole."""
        return self._graphs is not None and self._graphs.enabled

    def sampled(self, rows: Rows[Row]) -> list[Row]:
        """The rows that `forward` returns logits of, in its order."""
        return [row for row in self._ordered(rows).rows if row.samples]

    @torch.inference_mode()
    def forward(self, rows: Rows[Row]) -> tuple[list[Row], torch.Tensor]:
        """Compute the rows; returns those that sample, and their logits (rows, vocabulary) in that order.

        Writes only the rows' own cache slots, so a pass that failed may be repeated, whole or in parts.
        """
        order = self._ordered(rows)
        recorded = self._replayed(order.rows) if len(order.reading) == len(order.rows) else None
        if recorded is not None:
            return order.rows, recorded
        step, ids, positions, keep = self._batch(order)
        self.step_adapters.set(
            [row.sequence.adapter for row in order.rows], [row.count for row in order.rows], self.device
        )
        sampled = [row for row in order.rows if row.samples]
        try:
            output = self._model(
                input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=keep, step=step
            )
        except Exception:
            # Of what it was to copy to the slots, some layers have nothing.
            if self._slots is not None:
                self._slots.clear()
            raise
        return sampled, output.logits[0][: len(sampled)]

    def hidden(self) -> torch.Tensor:
        """The final hidden states (rows, width) that the last `forward` made its logits of, in their order."""
        assert self._hidden is not None, "nothing was computed yet"
        return self._hidden[0]

    def _keep_hidden(self, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._hidden = inputs[0]

    def _ordered(self, rows: Rows[Row]) -> Order:
        decodes = {row.sequence: row for row in sorted(rows, key=lambda row: row.start) if row.count == 1}
        placed = self._slots.place(list(decodes)) if self._slots is not None else []
        reading = [decodes.pop(sequence) for sequence in placed] + list(decodes.values())
        chunks = [row for row in rows if row.count > 1]
        slots = self.step_adapters.slots_of([row.sequence.adapter for row in [*reading, *chunks]])
        return ordered(reading, chunks, slots, placed=len(placed), as_read=self.accelerator is not None)

    def _batch(self, order: Order) -> tuple[StepBatch, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The step, its ids and positions (1, T), and which of its tokens have logits: those sampled, or the first."""
        rows, decodes, placed = order.rows, len(order.reading), order.placed
        size = self.allocator.block_size
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        keep: list[int] = []
        segments = []
        # A GPU's own attention has use for block tables on the CPU.
        home = self.device if self.accelerator is None else torch.device("cpu")
        for number, row in enumerate(rows):
            sequence, end = row.sequence, row.start + row.count
            start = len(ids)
            ids.extend(sequence.tokens[row.start : end])
            positions.extend(range(row.start, end))
            slots.extend(
                sequence.blocks[place // size] * size + place % size for place in range(row.start, end)
            )
            if number >= decodes:
                blocks = torch.tensor(sequence.blocks[: self.allocator.blocks_for(end)], device=home)
                segments.append(Segment(start, len(ids), row.start, blocks))
            if row.samples:
                keep.append(len(ids) - 1)
        # In one piece: each copy to a GPU costs as much as a small kernel.
        count = len(ids)
        numbers = sent([*ids, *positions, *slots, *(keep or [0])], self.device)
        at = numbers[2 * count : 3 * count]
        if self.accelerator is None:
            copies = self._slots.step() if self._slots is not None and placed else None
            groups = order.groups(size, self.device)
            in_place = copies.groups if copies is not None else []
            there = order.there()
            reading = None if there is None else Reading.of(self._tensor(there))
            step = StepBatch(self.cache, at, [*in_place, *groups], segments, copies=copies, reading=reading)
        else:
            tables = [(row.start + 1, row.sequence.blocks) for row in rows[:decodes]]
            attend = GpuStep(
                self.accelerator.kernels,
                at,
                decodes_of(tables, size, self.device) if tables else None,
                chunks_of(segments, size, self.device) if segments else None,
            )
            step = StepBatch(self.cache, at, [], [], attend)
        return step, numbers[None, :count], numbers[None, count : 2 * count], numbers[3 * count :]

    def _make_cache(self, tokens: int, block_size: int) -> None:
        """Another cache of the same layers, empty."""
        self.allocator = BlockAllocator(tokens, block_size)
        before, self.cache = self.cache, PagedCache(self.allocator.total + 1, block_size)
        for layer, keys in before.keys.items():
            self.cache.reserve(layer, keys[:, :, 0], before.values[layer][:, :, 0])

    def _cache_tokens(self, config: EngineConfig) -> int:
        """What the configuration says, or what fits its share of a GPU's memory."""
        if self.accelerator is None or self.accelerator.free_bytes is None or not config.kv_share:
            return config.kv_tokens
        block_bytes = self.cache.bytes() // self.cache.blocks
        blocks = int(config.kv_share * self.accelerator.free_bytes()) // block_bytes - 1
        if blocks < 2:
            raise HeliuError(
                f"{type(self._model).__name__} leaves no room for a cache: {config.kv_share} of the free memory is "
                f"{max(blocks, 0)} blocks of {block_bytes} bytes",
                code="out_of_memory",
            )
        log.info("KV cache: %d tokens, %.1f GiB", blocks * config.block_size, blocks * block_bytes / 2**30)
        return blocks * config.block_size

    def _decode_graphs(self, config: EngineConfig) -> DecodeGraphs | None:
        """Every size recorded, where the device can."""
        if self.accelerator is None or self.accelerator.record is None:
            return None
        graphs = DecodeGraphs(
            self._recorded,
            self.accelerator.record,
            self.accelerator.kernels,
            max_rows=config.max_slots,
            max_blocks=min(self.allocator.total, self.allocator.blocks_for(self.context)),
            device=self.device,
        )
        with torch.inference_mode():
            graphs.warm_up()
        return graphs

    def _recorded(self, inputs: Inputs, adapters: bool) -> Outputs:
        """What a graph holds: a forward pass of one token a row, all of them sampled."""
        assert self._slot_adapters is not None
        self._slot_adapters.use(inputs.adapters if adapters else None)
        step = StepBatch(self.cache, inputs.step.slots, [], [], inputs.step)
        output = self._model(
            input_ids=inputs.ids.unsqueeze(0),
            position_ids=inputs.positions.unsqueeze(0),
            use_cache=False,
            step=step,
        )
        return output.logits[0], self.hidden()

    def _replayed(self, rows: list[Row]) -> torch.Tensor | None:
        """The logits of decodes by a recorded step; None where there is none for them."""
        if self._graphs is None or self._slot_adapters is None or not all(row.samples for row in rows):
            return None
        size = self.allocator.block_size
        adapters = self._slot_adapters.slots_of([row.sequence.adapter for row in rows])
        found = self._graphs.run(
            [DecodeRow.of(row, size, adapter) for row, adapter in zip(rows, adapters, strict=True)],
            self._slot_adapters.version,
        )
        if found is None:
            return None
        logits, hidden = found
        self._hidden = hidden.unsqueeze(0)
        return logits

    def _tensor(self, values: list[Any]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    @torch.inference_mode()
    def _take_over(self, config: EngineConfig, count: int) -> None:
        """Switch to paged attention and packed layers, and prove on `count` tokens that nothing has changed."""
        tokens = [(7 + 13 * place) % self.embeddings for place in range(count)]
        model, name = self._model, type(self._model).__name__
        expected = model(input_ids=self._tensor([tokens]), use_cache=False).logits[0]
        try:
            model.set_attn_implementation(IMPLEMENTATION)
        except (ValueError, KeyError) as exc:
            raise UnsupportedModel(f"{name} does not take another attention function: {exc}") from exc
        if model.config._attn_implementation != IMPLEMENTATION:
            raise UnsupportedModel(f"{name} does not take another attention function")
        packs = self.device.type == "cpu" and config.dtype == "float32"
        self._packed_bytes = pack_linears(model) if packs else 0
        if self.accelerator is not None and not self._accelerates(tokens, expected):
            self.accelerator = None
        if self.accelerator is None and not _alike(self._probe(tokens), expected):
            raise UnsupportedModel(
                f"{name} computes something else under paged attention than by itself: its layers keep a state "
                "that is not keys and values, or its options are not served"
            )

    def _accelerates(self, tokens: list[int], expected: torch.Tensor) -> bool:
        """The device's own kernels give what the model does; where they fail, plain attention is slow but serves."""
        reason = "they give other logits than the model by itself"
        try:
            if _alike(self._probe(tokens), expected):
                return True
        except UnsupportedModel:
            raise
        except Exception as exc:  # noqa: BLE001 - a compiler's, a driver's or a library's
            reason = f"{type(exc).__name__}: {exc}"
        log.warning(
            "plain attention serves %s, the GPU's kernels fail: %s", type(self._model).__name__, reason
        )
        return False

    def _probe(self, tokens: list[int]) -> torch.Tensor:
        """All logits of `tokens`, through a prefill, a chunk after it, and one decode."""
        blocks = list(range(1, self.allocator.blocks_for(len(tokens)) + 1))
        sequence = Sequence("probe", "", Priority.BATCH, 0, tokens, len(tokens), blocks=blocks)
        logits = []
        cuts = sorted({0, len(tokens) // 2, len(tokens) - 1, len(tokens)})
        for start, end in pairwise(cuts):
            row = Row(sequence, start, end - start, samples=True)
            step, ids, positions, _ = self._batch(Order([row], [row] if row.count == 1 else []))
            output = self._model(input_ids=ids, position_ids=positions, use_cache=False, step=step)
            if step.layers_seen != set(range(self._layers)):
                raise UnsupportedModel(
                    f"{type(self._model).__name__} has {self._layers} layers, of which only "
                    f"{sorted(step.layers_seen)} use the shared attention interface"
                )
            logits.append(output.logits[0])
        return torch.cat(logits)


def _alike(got: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal but for rounding."""
    if len(got) != len(expected):
        return False
    if expected.dtype == torch.float32:
        return torch.allclose(got, expected, rtol=1e-3, atol=1e-3)
    difference = (got.float() - expected.float()).norm()
    return bool(difference <= _HALF_TOLERANCE * expected.float().norm())
