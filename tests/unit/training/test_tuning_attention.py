"""Packed sequences see themselves alone: as one by one, on a CPU and as a GPU would compute it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, MistralForCausalLM
from transformers.models.mistral import MistralConfig

from services.training.tuning import attention
from services.training.tuning.attention import packed_attention, unpackable
from tests.unit.inference.fake_gpu import Varlen

LENGTHS = (5, 1, 12, 3)
ENDS = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def _states(kv_heads: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    total = sum(LENGTHS)
    return [torch.randn(1, heads, total, 8, requires_grad=True) for heads in (4, kv_heads, kv_heads)]


def _alone(states: list[torch.Tensor], window: int | None) -> torch.Tensor:
    out, start = [], 0
    for length in LENGTHS:
        q, k, v = (s[:, :, start : start + length] for s in states)
        k, v = (part.repeat_interleave(4 // part.shape[1], 1) for part in (k, v))
        past = torch.arange(length).unsqueeze(1) - torch.arange(length)
        seen = (past >= 0) & (past < (window or length))
        scores = (q @ k.transpose(2, 3) * 0.3).masked_fill(~seen, float("-inf"))
        out.append((scores.softmax(-1) @ v).transpose(1, 2))
        start += length
    return torch.cat(out, 1)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("varlen", [None, Varlen()])
def test_values_and_gradients_are_those_of_each_sequence_alone(
    window: int | None, kv_heads: int, varlen: Varlen | None
) -> None:
    states = _states(kv_heads)
    found, _ = packed_attention(
        nn.Module(),
        *states,
        None,
        scaling=0.3,
        cu_seq_lens_q=ENDS,
        max_length_q=max(LENGTHS),
        sliding_window=window,
        varlen=varlen,
    )
    expected = _alone(states, window)
    assert torch.allclose(found, expected, atol=1e-6)
    weights = torch.randn_like(found)
    got = torch.autograd.grad((found * weights).sum(), states)
    wanted = torch.autograd.grad((expected * weights).sum(), states)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, wanted, strict=True))
    assert varlen is None or varlen.calls


def test_a_model_is_tried_on_real_sequences_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    sequences = [[1, 2, 3], [4, 5, 6, 7, 8], [9, 10]]
    llama = LlamaForCausalLM(LlamaConfig(**TINY)).train()
    assert unpackable(llama, CPU, sequences) is None
    assert llama.training
    assert llama.config._attn_implementation == "sdpa"
    mistral = MistralForCausalLM(MistralConfig(**TINY, sliding_window=3))
    assert unpackable(mistral, CPU, sequences) is None


def test_a_model_that_mixes_sequences_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(module: Any, *states: torch.Tensor, **named: Any) -> Any:
        return packed_attention(module, *states, **{**named, "cu_seq_lens_q": None})

    attention.AttentionInterface.register(attention.NAME, blind)
    try:
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**TINY, initializer_range=0.5))
        why = unpackable(model, CPU, [[1, 2, 3], [4, 5, 6]])
        assert why is not None
        assert "are off by" in why
    finally:
        attention.AttentionInterface.register(attention.NAME, packed_attention)


def test_what_the_kernel_does_not_compute_is_not_packed() -> None:
    gemma = Gemma2ForCausalLM(Gemma2Config(**TINY, head_dim=4))
    assert unpackable(gemma, CPU, [[1, 2]]) == "its attention caps logits"
