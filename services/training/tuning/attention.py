"""Attention over packed sequences, none of which sees another, for any model of transformers' AttentionInterface.

No table of all positions by all positions is made: on a GPU `varlen_attn` (flash-attention) knows where sequences
begin, on a CPU they are gone through one by one.
Whether a model can be packed is tried, whatever its configuration says: its logits of a few real sequences packed must
be those of each alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.modeling_utils import AttentionInterface

NAME = "heliu_packed"
# What varlen_attn computes in.
VARLEN_DTYPES = (torch.float16, torch.bfloat16)
# By how much packed logits may differ from those of the sequences alone, as a share of the largest.
_CLOSE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
_PROBE_TOKENS = 48


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - none is made for an implementation without a mask of its own
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    varlen: Callable[..., Any] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each sequence; the whole row is one where no borders are given.

    query (batch, heads, tokens, width), key and value with as many heads or fewer; returns (batch, tokens, heads,
    width). `cu_seq_lens_q` are the borders, from 0 to the number of tokens, of a batch of one row.
    """
    grouped = query.shape[1] != key.shape[1]
    if varlen is None and query.is_cuda and query.dtype in VARLEN_DTYPES:
        varlen = varlen_attn
    if cu_seq_lens_q is not None and varlen is not None:
        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
        out = varlen(
            q,
            k,
            v,
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            window_size=(sliding_window - 1 if sliding_window else -1, 0),
            enable_gqa=grouped,
        )
        return out.unsqueeze(0), None
    borders = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
    parts = []
    for start, end in pairwise(borders):
        mask = _window(end - start, sliding_window, query.device)
        parts.append(
            scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                attn_mask=mask,
                dropout_p=dropout if module.training else 0.0,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=grouped,
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _window(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """None where plain causal attention sees no farther than the window."""
    if not window or length <= window:
        return None
    past = torch.arange(length, device=device)
    past = past.unsqueeze(1) - past
    return (past >= 0) & (past < window)


AttentionInterface.register(NAME, packed_attention)


def unpackable(
    model: PreTrainedModel, device: torch.device, sequences: Sequence[Sequence[int]]
) -> str | None:
    """Why this model's sequences cannot be packed: by its configuration, or as it computed otherwise when tried."""
    why = _by_configuration(model, device)
    if why is None:
        difference, allowed = off_by(model, sorted(sequences, key=len)[:3])
        if not difference <= allowed:
            why = f"its logits of packed sequences are off by {difference:g}"
    return why


def _by_configuration(model: PreTrainedModel, device: torch.device) -> str | None:
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} brings an attention of its own"
    if getattr(config, "attn_logit_softcapping", None):
        return "its attention caps logits"
    if any("linear" in kind or "recurrent" in kind for kind in getattr(config, "layer_types", None) or ()):
        return "it has layers without attention, which would mix sequences"
    if device.type == "cuda" and getattr(config, "attention_dropout", None):
        return "its attention drops out"
    return None


@torch.no_grad()
def off_by(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> tuple[float, float]:
    """(largest difference, what is allowed) between the logits of packed sequences and of each alone."""
    ids = [torch.tensor(sequence[:_PROBE_TOKENS]) for sequence in sequences]
    ends = torch.tensor([0, *(len(part) for part in ids)]).cumsum(0).to(torch.int32)
    device = model.device
    was, training = model.config._attn_implementation, model.training
    model.eval()
    try:
        alone = [model(input_ids=part[None].to(device), use_cache=False).logits[0].float() for part in ids]
        model.set_attn_implementation(NAME)
        together = model(
            input_ids=torch.cat(ids)[None].to(device),
            position_ids=torch.cat([torch.arange(len(part)) for part in ids])[None].to(device),
            cu_seq_lens_q=ends.to(device),
            max_length_q=max(map(len, ids)),
            use_cache=False,
        ).logits[0]
    finally:
        model.set_attn_implementation(was)
        model.train(training)
    expected = torch.cat(alone)
    allowed = _CLOSE.get(together.dtype, 5e-2) * max(1.0, float(expected.abs().max()))
    return float((together.float() - expected).abs().max()), allowed
