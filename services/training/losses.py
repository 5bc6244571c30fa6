"""Batches of documents as tensors, and the next-token loss over them in bounded memory. Knows no optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from transformers import LlamaForCausalLM

from services.training.tokenizer import IGNORED

MICRO_TOKENS = 4096
_LOSS_ROWS = 256


def micro_batches(
    documents: Sequence[npt.NDArray[np.int32]],
) -> Iterator[Sequence[npt.NDArray[np.int32]]]:
    """A batch in parts of at most MICRO_TOKENS positions (or one document), so that long ones cannot fill memory."""
    part: list[npt.NDArray[np.int32]] = []
    longest = 0
    for document in documents:
        longest = max(longest, len(document))
        if part and longest * (len(part) + 1) > MICRO_TOKENS:
            yield part
            part, longest = [], len(document)
        part.append(document)
    yield part


def collate(
    documents: Sequence[npt.NDArray[np.int32]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels, each (documents, longest), padded on the right; padding is not learned."""
    longest = max(len(d) for d in documents)
    ids = np.full((len(documents), longest), pad, dtype=np.int64)
    labels = np.full((len(documents), longest), IGNORED, dtype=np.int64)
    for place, document in enumerate(documents):
        ids[place, : len(document)] = labels[place, : len(document)] = document
    return torch.from_numpy(ids).to(device), torch.from_numpy(labels).to(device)


def next_token_loss(
    model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, int, int]:
    """Sum of the cross-entropy, tokens guessed right, tokens learned.

    Right padding needs no mask under causal attention. Logits are made 256 positions at a time, and only where
    something is learned: the whole (positions x vocabulary) table is what makes a small model slow on a CPU.
    """
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    learned = targets != IGNORED
    hidden, targets = hidden[learned], targets[learned]
    total, correct = hidden.new_zeros(()), 0
    for part, wanted in zip(torch.split(hidden, _LOSS_ROWS), torch.split(targets, _LOSS_ROWS), strict=True):
        logits = model.lm_head(part).float()
        total = total + F.cross_entropy(logits, wanted, reduction="sum")
        correct += int((logits.detach().argmax(-1) == wanted).sum())
    return total, correct, int(targets.numel())
