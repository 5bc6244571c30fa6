"""The loss in parts is the loss of the whole, and long documents do not share a part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from services.training.losses import MICRO_TOKENS, collate, micro_batches, next_token_loss

CPU = torch.device("cpu")


def _documents(*lengths: int) -> list[np.ndarray]:
    dice = np.random.default_rng(0)
    return [dice.integers(1, 50, length).astype(np.int32) for length in lengths]


def test_the_chunked_loss_is_that_of_transformers_without_padding() -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, intermediate_size=32, **shape))
    documents = _documents(300, 17, 120)
    loss, correct, count = next_token_loss(model, *collate(documents, 0, CPU))
    expected, right = 0.0, 0
    for document in documents:
        ids = torch.from_numpy(document.astype(np.int64))[None]
        out = model(input_ids=ids, labels=ids)
        expected += out.loss.item() * (len(document) - 1)
        right += int((out.logits[0, :-1].argmax(-1) == ids[0, 1:]).sum())
    assert count == 299 + 16 + 119
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert correct == right


def test_parts_keep_every_document_and_stay_within_bounds() -> None:
    documents = _documents(10, 20, MICRO_TOKENS - 5, 30, 30, 2 * MICRO_TOKENS)
    parts = list(micro_batches(documents))
    assert [len(d) for part in parts for d in part] == [len(d) for d in documents]
    for part in parts:
        assert len(part) == 1 or len(part) * max(len(d) for d in part) <= MICRO_TOKENS
