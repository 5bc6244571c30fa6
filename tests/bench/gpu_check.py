"""Whether the engine computes on this card what it should: kernels against plain attention, answers against `generate`.

What is wrong is an error, before anything is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, product
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from services.inference.engine.paged_decode import Decodes, decode, write
from services.inference.engine.request import EngineConfig
from services.training.tuning.attention import packed_attention
from tests.bench import gpu_model, gpu_peers

TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
LENGTHS = (0, 1, 17, 300, 2049)
SIZE = 16


class Wrong(RuntimeError):
    """This card gives something else than it should."""


def kernels() -> int:
    """Every kernel over a grid of shapes; returns how many cases there were. Raises Wrong."""
    cases = 0
    for dtype, (heads, group), width, window in product(
        TOLERANCE, ((8, 4), (2, 1), (1, 7)), (64, 80, 128, 256), (None, 100)
    ):
        for splits in (1, 16):
            check_decodes("cuda", dtype, heads, group, width, window, splits)
            cases += 1
        if dtype != torch.float32:
            check_chunks("cuda", varlen_attn, dtype, heads, group, width, window)
            cases += 1
        if dtype != torch.float32 and window is None:
            check_packed("cuda", varlen_attn, dtype, heads, group, width)
            cases += 1
    return cases


def _near(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    worst = float((found.float() - expected).abs().max())
    if not worst <= TOLERANCE[found.dtype]:
        raise Wrong(f"{what}: off by {worst}")


def check_decodes(
    device: str,
    dtype: torch.dtype,
    heads: int,
    group: int,
    width: int,
    window: int | None,
    splits: int | None,
) -> None:
    """The decode kernel, and the one that writes. Raises Wrong."""
    torch.manual_seed(width)
    counts = [-(-length // SIZE) for length in LENGTHS]
    blocks = torch.randperm(sum(counts), device=device) + 1
    starts = [0, *accumulate(counts)][:-1]
    keys = torch.full((sum(counts) + 1, heads, SIZE, width), float("nan"), dtype=dtype, device=device)
    values = keys.clone()
    texts = []
    for length, start in zip(LENGTHS, starts, strict=True):
        new = torch.randn(2, length, heads, width, device=device).to(dtype)
        place = torch.arange(length, device=device)
        slots = blocks[start + place // SIZE] * SIZE + place % SIZE
        if length:
            write(keys, values, new[0], new[1], slots)
        texts.append(new)
    query = torch.randn(len(LENGTHS), heads * group, width, device=device).to(dtype)
    rows = Decodes(torch.tensor(LENGTHS, device=device), torch.tensor(starts, device=device), blocks)
    found = decode(query, keys, values, rows, width**-0.5, window, splits)
    for row, text in enumerate(texts):
        first = max(0, LENGTHS[row] - window) if window else 0
        expected = torch.zeros(heads * group, width, device=device)
        if LENGTHS[row]:
            k, v = text[:, first:].float().transpose(1, 2)
            expected = scaled_dot_product_attention(
                query[row].float().unsqueeze(1), k, v, scale=width**-0.5, enable_gqa=True
            )[:, 0]
        _near(found[row], expected, f"decode {dtype} {heads}x{group} heads of {width}, {window=}, {splits=}")


def check_chunks(
    device: str,
    varlen: Callable[..., Any],
    dtype: torch.dtype,
    heads: int,
    group: int,
    width: int,
    window: int | None,
) -> None:
    """`varlen_attn` as the engine calls it: chunks after a context, causal from the end. Raises Wrong."""
    torch.manual_seed(width)
    queries, totals = (5, 130, 1), (5, 700, 40)
    q = torch.randn(sum(queries), heads * group, width, device=device).to(dtype)
    k, v = torch.randn(2, sum(totals), heads, width, device=device).to(dtype)
    q_ends, k_ends = _ends(queries, device), _ends(totals, device)
    found = varlen(
        q,
        k,
        v,
        q_ends,
        k_ends,
        max(queries),
        max(totals),
        scale=width**-0.5,
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=group > 1,
    )
    for number, (count, total) in enumerate(zip(queries, totals, strict=True)):
        q0, k0 = int(q_ends[number]), int(k_ends[number])
        past = torch.arange(total - count, total, device=device).unsqueeze(1) - torch.arange(
            total, device=device
        )
        mask = (past >= 0) & (past < (window or total))
        parts = (q[q0 : q0 + count], k[k0 : k0 + total], v[k0 : k0 + total])
        expected = scaled_dot_product_attention(
            *(part.float().transpose(0, 1).unsqueeze(0) for part in parts),
            attn_mask=mask,
            scale=width**-0.5,
            enable_gqa=True,
        )
        what = f"varlen_attn {dtype} {heads}x{group} heads of {width}, {window=}"
        _near(found[q0 : q0 + count], expected[0].transpose(0, 1), what)


def check_packed(
    device: str, varlen: Callable[..., Any], dtype: torch.dtype, heads: int, group: int, width: int
) -> None:
    """Packed attention of training and its gradients, against each sequence alone. Raises Wrong."""
    torch.manual_seed(width)
    counts = (5, 130, 1, 40)
    shapes = ((heads * group,), (heads,), (heads,))
    states = [
        torch.randn(1, *shape, sum(counts), width, device=device).to(dtype).requires_grad_()
        for shape in shapes
    ]
    ends = _ends(counts, device)
    found, _ = packed_attention(
        torch.nn.Module(),
        *states,
        None,
        scaling=width**-0.5,
        cu_seq_lens_q=ends,
        max_length_q=max(counts),
        varlen=varlen,
    )
    plain = [state.detach().float().requires_grad_() for state in states]
    parts = [
        scaled_dot_product_attention(
            *(state[:, :, int(ends[n]) : int(ends[n + 1])] for state in plain),
            is_causal=True,
            enable_gqa=True,
        )
        for n in range(len(counts))
    ]
    expected = torch.cat(parts, 2).transpose(1, 2)
    what = f"packed attention {dtype} {heads}x{group} heads of {width}"
    _near(found.detach(), expected.detach(), what)
    weights = torch.randn_like(expected)
    got = torch.autograd.grad((found.float() * weights).sum(), states)
    wanted = torch.autograd.grad((expected * weights).sum(), plain)
    for one, other in zip(got, wanted, strict=True):
        # Sums over many queries round more than one of them does.
        _near(one / 8, other / 8, f"the gradient of {what}")


def _ends(counts: Sequence[int], device: str) -> torch.Tensor:
    return torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=device)


def answers(device: str) -> int:
    """A tiny model's answers in float32 against `generate`, token by token; returns how many. Raises Wrong."""
    model = gpu_model.build("tiny", device, torch.float32)
    texts = gpu_model.prompts(6, 40, model.config.vocab_size)
    _, expected = gpu_peers.generate(model, texts, 24, 6)
    config = EngineConfig(
        max_slots=4, kv_tokens=1024, step_tokens=64, device=device, dtype="float32", max_adapters=1
    )
    served = gpu_model.Served(model, config)
    check_uses_the_card(served, device)
    _, found = served.run(texts, 24)
    if found != expected:
        raise Wrong(f"the engine answers {found}, generate {expected}")
    return len(texts)


def check_uses_the_card(served: gpu_model.Served, device: str) -> None:
    """Raises Wrong where kernels or recorded steps have given way to plain attention, which the log explains."""
    if device != "cuda":
        return
    if served.runner.accelerator is None:
        raise Wrong("the kernels do not serve on this card; the warning above says why")
    if not served.runner.records:
        raise Wrong("steps cannot be recorded on this card; the warning above says why")
