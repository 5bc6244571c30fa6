"""A GPU's part played on the CPU: kernels in plain torch, and recordings that run again without any Python of ours.

`Tape` does what a CUDA graph does: it keeps the operations and the memory they read and write, so that whatever was
decided in Python while recording is decided for good, and a number read back from a tensor is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from services.inference.engine.accelerator import Accelerator
from services.inference.engine.gpu_attention import Kernels
from services.inference.engine.graphs import Outputs
from services.inference.engine.paged_decode import Decodes

# These read the GPU's memory from the CPU.
_WAITS = frozenset({"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select"})


def write(
    keys: torch.Tensor, values: torch.Tensor, new_keys: torch.Tensor, new_values: torch.Tensor, slots: Any
) -> None:
    size = keys.shape[2]
    for store, new in ((keys, new_keys), (values, new_values)):
        store.transpose(1, 2).index_put_((slots // size, slots % size), new)


def decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: Decodes,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Of a shape that depends on the cache alone: over as many tokens as it could hold."""
    size = keys.shape[2]
    place = torch.arange(keys.shape[0] * size)
    seen = place < rows.lengths.unsqueeze(1)
    if window is not None:
        seen &= place >= rows.lengths.unsqueeze(1) - window
    index = (rows.starts.unsqueeze(1) + place // size).clamp_max(len(rows.blocks) - 1)
    # Past a row's own blocks lie other numbers.
    block = torch.where(seen, rows.blocks[index], 0)
    group = query.shape[1] // keys.shape[1]
    k = keys[block, :, place % size].repeat_interleave(group, 2)
    v = values[block, :, place % size].repeat_interleave(group, 2)
    scores = torch.einsum("rhd,rnhd->rhn", query, k) * scale
    weights = scores.masked_fill(~seen.unsqueeze(1), float("-inf")).softmax(-1).nan_to_num()
    return torch.einsum("rhn,rnhd->rhd", weights, v)


class Varlen:
    """`varlen_attn` by its documentation: causal from the end, `window_size` counts the tokens before a query's."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_seq_q: torch.Tensor,
        cu_seq_k: torch.Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float,
        window_size: tuple[int, int],
        enable_gqa: bool,
    ) -> torch.Tensor:
        self.calls += 1
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        assert enable_gqa or query.shape[1] == key.shape[1]
        assert (len(query), len(key)) == (cu_seq_q[-1], cu_seq_k[-1])
        assert (max_q, max_k) == (cu_seq_q.diff().max(), cu_seq_k.diff().max())
        found = []
        pairs = zip(cu_seq_q.tolist(), cu_seq_k.tolist(), strict=True)
        for (q0, k0), (q1, k1) in pairwise(pairs):
            at = torch.arange(k1 - k0 - (q1 - q0), k1 - k0).unsqueeze(1)
            past = at - torch.arange(k1 - k0)
            mask = (past >= 0) & ((past <= window_size[0]) | (window_size[0] < 0))
            q, k, v = (part.transpose(0, 1).unsqueeze(0) for part in (query[q0:q1], key[k0:k1], value[k0:k1]))
            out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
            found.append(out[0].transpose(0, 1))
        return torch.cat(found)


class Tape(TorchDispatchMode):
    """A recording. `outputs` lie where they lay when it was made, and `plays` counts how often it ran again."""

    def __init__(self, function: Callable[[], Outputs]) -> None:
        super().__init__()
        self._steps: list[tuple[Any, Any, Any, Any]] = []
        self.plays = 0
        with self:
            self.outputs = function()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _WAITS:
            raise RuntimeError("operation not permitted when stream is capturing")
        found = func(*args, **(kwargs or {}))
        self._steps.append((func, args, kwargs or {}, found))
        return found

    def __call__(self) -> None:
        self.plays += 1
        for func, args, kwargs, before in self._steps:
            after = func(*args, **kwargs)
            for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recorder:
    def __init__(self) -> None:
        self.tapes: list[Tape] = []

    def __call__(self, function: Callable[[], Outputs]) -> Tape:
        function()
        self.tapes.append(Tape(function))
        return self.tapes[-1]

    @property
    def plays(self) -> int:
        return sum(tape.plays for tape in self.tapes)


class FakeGpu:
    """An accelerator to hand in, and what was made of it."""

    def __init__(self, *, graphs: bool = True, varlen: bool = True) -> None:
        self.varlen = Varlen()
        self.recorder = Recorder()
        kernels = Kernels(write, decode, self.varlen if varlen else None, varlen_dtypes=(torch.float32,))
        self.accelerator = Accelerator(kernels, self.recorder if graphs else None)
