"""TRL's DPOTrainer with our schedule, frames, stop requests and atomic checkpoints. Knows no files of rows.

What the model before thinks of each pair is computed once, ahead of the first step: so no second model is held, and a
resumed run measures by the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from trl import DPOTrainer

from services.training.dpo.encode import EncodedPair
from services.training.reporting import Plan, Reporting
from services.training.run import Stopped

# Positions of a batch that is only read: pairs of like length together.
_READ_TOKENS = 16_384
Scores = npt.NDArray[np.float64]


class PreferenceTrainer(Reporting, DPOTrainer):  # type: ignore[misc]  # TRL is untyped
    """Pairs that are already in order. `scores` of a pair are log-probabilities (chosen, rejected) of its answers."""

    told: ClassVar[dict[str, str]] = {
        "mean_token_accuracy": "mean_token_accuracy",
        "rewards/accuracies": "reward_accuracy",
        "rewards/margins": "reward_margin",
    }

    def __init__(
        self, *, plan: Plan, pairs: Sequence[EncodedPair], held_out: Sequence[EncodedPair], **arguments: Any
    ) -> None:
        """Raises Stopped where a stop is asked for while the pairs are read."""
        self._pairs, self._held_out = pairs, held_out
        self.before: Scores = np.zeros((0, 2))
        super().__init__(
            plan=plan,
            train_dataset=_dataset(pairs, plan.rows),
            eval_dataset=_dataset(held_out, np.arange(len(held_out))) if held_out else None,
            **arguments,
        )
        if "ref" in getattr(self.model, "peft_config", {}):
            # TRL's copy of the adapter that is started from: its word is in the scores already.
            self.model.delete_adapter("ref")

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        """Rows are tokens already."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:  # noqa: ARG002
        """TRL's hook: the scores of the model before, as columns. Each pair is read once for all epochs."""
        if name == "train":
            scores = self.scores(self._pairs)[self.plan.rows]
        else:
            scores = self.before = self.scores(self._held_out)
        dataset = dataset.add_column("ref_chosen_logps", scores[:, 0].tolist())
        return dataset.add_column("ref_rejected_logps", scores[:, 1].tolist())

    def scores(self, pairs: Sequence[EncodedPair]) -> Scores:
        """(pairs, 2): what the model as it is thinks of each pair. Raises Stopped."""
        order = sorted(range(len(pairs)), key=lambda i: pairs[i].longest)
        out: Scores = np.zeros((len(pairs), 2))
        training = self.model.training
        self.model.eval()
        start = 0
        while start < len(order):
            reason = self.plan.run.stop_reason
            if reason:
                raise Stopped(reason, self.state.global_step)
            end = start + 1
            while end < len(order) and 2 * (end + 1 - start) * pairs[order[end]].longest <= _READ_TOKENS:
                end += 1
            chosen = order[start:end]
            out[chosen] = self._read([pairs[i] for i in chosen])
            start = end
        self.model.train(training)
        return out

    def _read(self, pairs: Sequence[EncodedPair]) -> Scores:
        batch = self.data_collator(list(_dataset(pairs, np.arange(len(pairs)))))
        batch = {name: value.to(self.args.device) for name, value in batch.items()}
        mask = batch.pop("completion_mask")
        labels = batch["input_ids"].masked_fill(mask == 0, -100)
        with torch.no_grad(), self.accelerator.autocast():
            found = self.model(**batch, labels=labels, use_cache=False, fused_lm_head=True).log_probs
        sums: Scores = found[:, -(mask.shape[1] - 1) :].double().sum(dim=1).cpu().numpy()
        return sums.reshape(2, len(pairs)).T


def _dataset(pairs: Sequence[EncodedPair], rows: npt.NDArray[np.int64]) -> Dataset:
    return Dataset.from_dict(
        {
            "prompt_ids": [pairs[i].prompt for i in rows],
            "chosen_ids": [pairs[i].chosen for i in rows],
            "rejected_ids": [pairs[i].rejected for i in rows],
        }
    )
