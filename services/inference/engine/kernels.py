"""Triton kernels: new keys and values into the cache, and one query a sequence over its blocks. Knows no launch.

Read by Triton's compiler, or by its interpreter (TRITON_INTERPRET=1), never run as Python. Without Triton, as on a CPU
install of torch, this module can be imported and no kernel in it used.
"""

# ruff: noqa: N803 - as Triton writes what is constant in a kernel

from __future__ import annotations

from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

AVAILABLE = triton is not None
INTERPRETED = AVAILABLE and bool(triton.knobs.runtime.interpret)
# These begin anywhere in a longer tensor: to compile anew for each alignment of theirs would stop a step for a second.
_ANYWHERE = ["slots", "lengths", "starts", "blocks"]


def jit(kernel: Any) -> Any:
    return triton.jit(kernel, do_not_specialize_on_alignment=_ANYWHERE) if AVAILABLE else kernel


@jit
def write_kernel(
    keys,
    values,
    new_keys,
    new_values,
    slots,
    key_row_stride,
    key_head_stride,
    value_row_stride,
    value_head_stride,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One program a token and kv head: its key and value go to the token's slot."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    slot = tl.load(slots + row)
    place = (slot // SIZE * HEADS + head) * SIZE + slot % SIZE
    across = tl.arange(0, WIDTH)
    key = tl.load(
        new_keys + row * key_row_stride + head * key_head_stride + across, mask=across < KEY_WIDTH, other=0.0
    )
    tl.store(keys + place * KEY_WIDTH + across, key, mask=across < KEY_WIDTH)
    value = tl.load(
        new_values + row * value_row_stride + head * value_head_stride + across,
        mask=across < VALUE_WIDTH,
        other=0.0,
    )
    tl.store(values + place * VALUE_WIDTH + across, value, mask=across < VALUE_WIDTH)


@jit
def decode_kernel(
    out,
    partial,
    weights,
    query,
    keys,
    values,
    lengths,
    starts,
    blocks,
    query_row_stride,
    query_head_stride,
    scale,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_ROOM: tl.constexpr,
    SIZE: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    KEY_ROOM: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    VALUE_ROOM: tl.constexpr,
    WINDOW: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """One program a sequence, kv head and split of what the sequence may see (flash-decoding, online softmax).

    The GROUP query heads of the kv head go together, as rows of one product. `scale` has log2(e) in it. With one
    split `out` (sequences, heads, width) is written; else `partial` (sequences, heads, SPLITS, width) and the splits'
    log2-sum-exp `weights`, which `join_kernel` joins. A sequence of length 0 is padding and gets zeros.
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(lengths + row).to(tl.int32)
    table = blocks + tl.load(starts + row)
    first = length * 0
    if WINDOW > 0:
        first = tl.maximum(length - WINDOW, 0)
    # Whole tiles, as even as they can be.
    share = tl.cdiv(tl.cdiv(length - first, TILE), SPLITS) * TILE
    begin = first + split * share
    end = tl.minimum(begin + share, length)

    group = tl.arange(0, GROUP_ROOM)
    across_keys = tl.arange(0, KEY_ROOM)
    across_values = tl.arange(0, VALUE_ROOM)
    heads = head * GROUP + group
    q = tl.load(
        query + row * query_row_stride + heads[:, None] * query_head_stride + across_keys[None, :],
        mask=(group < GROUP)[:, None] & (across_keys < KEY_WIDTH)[None, :],
        other=0.0,
    )
    if WIDEN:
        q = q.to(tl.float32)
    most = tl.full([GROUP_ROOM], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_ROOM], tl.float32)
    found = tl.zeros([GROUP_ROOM, VALUE_ROOM], tl.float32)
    for tile in range(begin, end, TILE):
        token = tile + tl.arange(0, TILE)
        seen = token < end
        block = tl.load(table + token // SIZE, mask=seen, other=0)
        place = (block * HEADS + head) * SIZE + token % SIZE
        k = tl.load(
            keys + place[None, :] * KEY_WIDTH + across_keys[:, None],
            mask=seen[None, :] & (across_keys < KEY_WIDTH)[:, None],
            other=0.0,
        )
        v = tl.load(
            values + place[:, None] * VALUE_WIDTH + across_values[None, :],
            mask=seen[:, None] & (across_values < VALUE_WIDTH)[None, :],
            other=0.0,
        )
        if WIDEN:
            k = k.to(tl.float32)
            v = v.to(tl.float32)
        if GROUP > 1:
            scores = tl.dot(q, k, input_precision="ieee") * scale
        else:
            # One query: a product of 16 rows would be 15 of zeros.
            scores = tl.sum(tl.trans(q).to(tl.float32) * k.to(tl.float32), axis=0)[None, :] * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        # The first token of a tile is always seen, so this is finite from the first tile on.
        higher = tl.maximum(most, tl.max(scores, axis=1))
        shrink = tl.exp2(most - higher)
        p = tl.exp2(scores - higher[:, None])
        total = total * shrink + tl.sum(p, axis=1)
        if GROUP > 1:
            found = found * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        else:
            found = found * shrink[:, None] + tl.sum(tl.trans(p) * v.to(tl.float32), axis=0)[None, :]
        most = higher

    empty = total == 0.0
    found = found / tl.where(empty, 1.0, total)[:, None]
    known = (group < GROUP)[:, None] & (across_values < VALUE_WIDTH)[None, :]
    of_head = row * HEADS * GROUP + heads
    if SPLITS == 1:
        tl.store(
            out + of_head[:, None] * VALUE_WIDTH + across_values[None, :],
            found.to(out.dtype.element_ty),
            mask=known,
        )
    else:
        of_split = of_head * SPLITS + split
        tl.store(partial + of_split[:, None] * VALUE_WIDTH + across_values[None, :], found, mask=known)
        weight = tl.where(empty, float("-inf"), most + tl.log2(tl.where(empty, 1.0, total)))
        tl.store(weights + of_split, weight, mask=group < GROUP)


@jit
def join_kernel(
    out,
    partial,
    weights,
    VALUE_WIDTH: tl.constexpr,
    VALUE_ROOM: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """One program a sequence and head: its splits weighed by their log2-sum-exp. SPLITS is a power of two."""
    of_head = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS)
    across = tl.arange(0, VALUE_ROOM)
    weight = tl.load(weights + of_head * SPLITS + split)
    most = tl.max(weight, axis=0)
    # All are minus infinity for padding.
    share = tl.where(
        weight == float("-inf"), 0.0, tl.exp2(weight - tl.where(most == float("-inf"), 0.0, most))
    )
    found = tl.load(
        partial + (of_head * SPLITS + split)[:, None] * VALUE_WIDTH + across[None, :],
        mask=(across < VALUE_WIDTH)[None, :],
        other=0.0,
    )
    whole = tl.sum(share, axis=0)
    joined = tl.sum(found * share[:, None], axis=0) / tl.where(whole == 0.0, 1.0, whole)
    tl.store(out + of_head * VALUE_WIDTH + across, joined.to(out.dtype.element_ty), mask=across < VALUE_WIDTH)
