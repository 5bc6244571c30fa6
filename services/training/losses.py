"""Batches of documents as tensors, and the next-token loss over them in bounded memory. Knows no optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from transformers import PreTrainedModel

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


def splits(model: PreTrainedModel) -> bool:
    """Whether the logits are the output layer of the body's last states, with nothing after it (a cap, a scale)."""
    if model.base_model is model:
        return False
    training, ids = model.training, torch.arange(2, device=next(model.parameters()).device)[None]
    model.eval()
    with torch.no_grad():
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        made, wanted = model.get_output_embeddings()(states), model(input_ids=ids, use_cache=False).logits
    model.train(training)
    return bool(torch.allclose(made.float(), wanted.float(), atol=1e-4, rtol=1e-4))


def next_token_loss(
    model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor, *, whole: bool = False
) -> tuple[torch.Tensor, int, int]:
    """Sum of the cross-entropy, tokens guessed right, tokens learned.

    Right padding needs no mask under causal attention. Logits are made 256 positions at a time, and only where
    something is learned: the whole (positions x vocabulary) table is what makes a small model slow on a CPU. `whole`
    asks the model for it, where `splits` says no.
    """
    targets = labels[:, 1:]
    learned = targets != IGNORED
    if whole:
        states, head = model(input_ids=ids, use_cache=False).logits[:, :-1], torch.nn.Identity()
    else:
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        head = model.get_output_embeddings()
    states, targets = states[learned], targets[learned]
    total, correct = states.new_zeros((), dtype=torch.float32), 0
    for part, wanted in zip(torch.split(states, _LOSS_ROWS), torch.split(targets, _LOSS_ROWS), strict=True):
        logits = head(part).float()
        total = total + F.cross_entropy(logits, wanted, reduction="sum")
        correct += int((logits.detach().argmax(-1) == wanted).sum())
    return total, correct, int(targets.numel())
