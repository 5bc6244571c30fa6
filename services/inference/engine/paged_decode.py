"""Launches the kernels of a paged cache: `write` for new keys and values, `decode` for one query a sequence.

Chooses tiles and splits by shape alone, never by a sequence's length, so that a launch can be recorded in a CUDA
graph. Knows no step and no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch

from services.inference.engine.kernels import INTERPRETED, decode_kernel, join_kernel, write_kernel

# Of a kv head's query heads in one program: the least rows of a tensor core's product.
_LEAST_ROWS = 16
_MOST_SPLITS = 32
# Programs that keep a processor's memory requests under way.
_PROGRAMS_A_PROCESSOR = 4
# Without a GPU, for the interpreter.
_PROCESSORS = 4


@dataclass(frozen=True)
class Decodes:
    """One query a sequence, R of them. `lengths` (R) counts the tokens that each may see, its own included.

    `blocks` holds the block numbers of one sequence after another; those of row r begin at `starts[r]`. All int64.
    Rows of length 0 are padding.
    """

    lengths: torch.Tensor
    starts: torch.Tensor
    blocks: torch.Tensor


def write(
    keys: torch.Tensor,
    values: torch.Tensor,
    new_keys: torch.Tensor,
    new_values: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """Store `new_keys` and `new_values` (T, kv heads, width) at `slots` (T) of a layer's cache.

    `keys` and `values` are (blocks, kv heads, block size, width), contiguous; a slot is block x block size + offset.
    """
    new_keys, new_values = _rows(new_keys), _rows(new_values)
    _, heads, size, width = keys.shape
    write_kernel[(len(slots), heads)](
        keys,
        values,
        new_keys,
        new_values,
        slots,
        new_keys.stride(0),
        new_keys.stride(1),
        new_values.stride(0),
        new_values.stride(1),
        HEADS=heads,
        SIZE=size,
        KEY_WIDTH=width,
        VALUE_WIDTH=values.shape[3],
        WIDTH=_power(max(width, values.shape[3])),
        num_warps=1,
    )


def decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: Decodes,
    scale: float,
    window: int | None,
    splits: int | None = None,
) -> torch.Tensor:
    """Attention of `query` (R, heads, width) to its sequences' blocks; (R, heads, value width).

    `window` lets a token see that many, itself included. `splits`, a power of two, is for tests.
    """
    query = _rows(query)
    count, query_heads, width = query.shape
    _, heads, size, value_width = values.shape
    group = query_heads // heads
    splits = splits or _splits(count * heads, query.device)
    out = torch.empty((count, query_heads, value_width), dtype=query.dtype, device=query.device)
    # With one split nothing reads these two.
    partial, weights = out, out
    if splits > 1:
        partial = torch.empty(
            (count, query_heads, splits, value_width), dtype=torch.float32, device=query.device
        )
        weights = torch.empty((count, query_heads, splits), dtype=torch.float32, device=query.device)
    decode_kernel[(count, heads, splits)](
        out,
        partial,
        weights,
        query,
        keys,
        values,
        rows.lengths,
        rows.starts,
        rows.blocks,
        query.stride(0),
        query.stride(1),
        scale * math.log2(math.e),
        HEADS=heads,
        GROUP=group,
        GROUP_ROOM=max(_LEAST_ROWS, _power(group)) if group > 1 else 1,
        SIZE=size,
        KEY_WIDTH=width,
        KEY_ROOM=max(16, _power(width)),
        VALUE_WIDTH=value_width,
        VALUE_ROOM=max(16, _power(value_width)),
        WINDOW=window or 0,
        TILE=_tile(max(width, value_width) * query.element_size()),
        SPLITS=splits,
        # The interpreter knows bfloat16 as bits only.
        WIDEN=INTERPRETED,
        num_warps=4,
        num_stages=2,
    )
    if splits > 1:
        join_kernel[(count * query_heads,)](
            out,
            partial,
            weights,
            VALUE_WIDTH=value_width,
            VALUE_ROOM=max(16, _power(value_width)),
            SPLITS=splits,
            num_warps=4,
        )
    return out


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with its last dimension in one piece."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _power(number: int) -> int:
    """The least power of two that is not under `number`."""
    return 1 << (number - 1).bit_length()


def _tile(row_bytes: int) -> int:
    """Tokens at a time: two stages of keys and values within about 64 KiB of shared memory."""
    return 64 if row_bytes <= 256 else 32 if row_bytes <= 512 else 16


def _splits(programs: int, device: torch.device) -> int:
    """Parts of each sequence, so that a few sequences too keep the whole device busy."""
    wanted = _PROGRAMS_A_PROCESSOR * _processors(device) // programs
    return min(_MOST_SPLITS, 1 << max(0, wanted.bit_length() - 1))


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _PROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
