"""The loop that trains a causal model on texts: length-bucketed batches, next-token loss on every token. Knows no files
of rows and no tokenizer's making.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from services.training.checkpoint import CheckpointStore
from services.training.loop import Loop
from services.training.losses import collate, micro_batches, next_token_loss, splits
from services.training.muon import MuonAdamW
from services.training.plan import Rhythm
from services.training.run import Run, Stopped

Documents = Sequence[npt.NDArray[np.int32]]


@dataclass(frozen=True)
class Pace:
    """`rows` are all epochs' row numbers in order."""

    rows: npt.NDArray[np.int64]
    batch_size: int
    rhythm: Rhythm


@dataclass
class _Tally:
    """Sums since the last metrics frame."""

    loss: float = 0.0
    correct: int = 0
    tokens: int = 0
    steps: int = 0


class GentleAdamW(torch.optim.AdamW):
    """AdamW with the one knob that the loop turns, for weights that know something already."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        super().__init__(parameters, lr=0.0, betas=(0.9, 0.95), weight_decay=0.01)

    def set_rate(self, rate: float) -> None:
        for group in self.param_groups:
            group["lr"] = rate


class Pretrainer(Loop):
    """One run. `train` raises Stopped at a step boundary when asked to."""

    def __init__(
        self,
        run: Run,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        documents: Documents,
        held_out: Documents,
        pace: Pace,
        store: CheckpointStore,
        *,
        fresh: bool,
    ) -> None:
        """`fresh` weights are trained with Muon, others with AdamW. `model` may wear an adapter: then that is
        trained."""
        self._model, self._tokenizer = model, tokenizer
        self._causal: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._documents, self._held_out, self._pace = documents, held_out, pace
        self._device = next(model.parameters()).device
        self._whole = not splits(self._causal)
        self._tally = _Tally()
        weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer: Any
        if fresh:
            optimizer = MuonAdamW(model.named_parameters(), weight_decay=0.05)
        else:
            optimizer = GentleAdamW(list(weights.values()))
        super().__init__(run, weights, optimizer, pace.rhythm, store, watched=bool(held_out))

    @property
    def epoch(self) -> float:
        return min(self.step * self._pace.batch_size, len(self._pace.rows)) / len(self._documents)

    def one_step(self) -> int:
        start = self.step * self._pace.batch_size
        chosen = [self._documents[i] for i in self._pace.rows[start : start + self._pace.batch_size]]
        count = sum(len(d) - 1 for d in chosen)
        self._optimizer.set_rate(self.rate)
        self._model.train()
        loss, correct = 0.0, 0
        for part in micro_batches(chosen):
            part_loss, right, _ = self._loss(part)
            (part_loss / count).backward()  # type: ignore[no-untyped-call]
            loss, correct = loss + part_loss.item(), correct + right
        torch.nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        tally = self._tally
        tally.loss += loss / count
        tally.correct += correct
        tally.tokens += count
        tally.steps += 1
        return count

    def _loss(self, documents: Documents) -> tuple[torch.Tensor, int, int]:
        ids, labels = collate(documents, self._tokenizer.pad_token_id, self._device)
        return next_token_loss(self._causal, ids, labels, whole=self._whole)

    def report(self, seconds: float) -> dict[str, float]:
        tally, self._tally = self._tally, _Tally()
        return {
            "train_loss": tally.loss / tally.steps,
            "train_mean_token_accuracy": tally.correct / max(1, tally.tokens),
            "tokens_per_second": tally.tokens / seconds,
        }

    def evaluate(self) -> tuple[float, float, int]:
        """(loss a token, share of tokens guessed right, tokens) of the held-out texts. Raises Stopped."""
        self._model.eval()
        loss, correct, count = 0.0, 0, 0
        with torch.no_grad():
            for documents in micro_batches(self._held_out):
                if self._run.stop_reason:
                    raise Stopped(self._run.stop_reason, self.step)
                part_loss, right, number = self._loss(documents)
                loss, correct, count = loss + part_loss.item(), correct + right, count + number
        return loss / count, correct / count, count

    def validate(self) -> dict[str, float]:
        loss, accuracy, _ = self.evaluate()
        return {"valid_loss": loss, "valid_mean_token_accuracy": accuracy}

    def write_beside(self, folder: Path) -> None:
        self._tokenizer.save_pretrained(folder)
