"""TRL's DPOTrainer with our schedule, frames, stop requests and atomic checkpoints. Knows no files of rows.

What the model before thinks of each pair is computed once, ahead of the first step, and goes on with the checkpoints:
so no second model is held, and a resumed run measures by the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import DPOTrainer

from services.training import world
from services.training.dpo.encode import EncodedPair
from services.training.reporting import Reporting, wished
from services.training.run import Stopped
from services.training.tuning.plan import Plan

# Positions of a batch that is only read: pairs of like length together.
_READ_TOKENS = 16_384
_BEFORE = "before.npy"
Scores = npt.NDArray[np.float64]


class PreferenceTrainer(Reporting, DPOTrainer):  # type: ignore[misc]  # TRL is untyped
    """Pairs that are already in order. `scores` of a pair are log-probabilities (chosen, rejected) of its answers;
    `before` are those of the held-out pairs by the model before."""

    told: ClassVar[dict[str, str]] = {
        "mean_token_accuracy": "mean_token_accuracy",
        "rewards/accuracies": "reward_accuracy",
        "rewards/margins": "reward_margin",
    }

    def __init__(
        self, *, plan: Plan, pairs: Sequence[EncodedPair], held_out: Sequence[EncodedPair], **arguments: Any
    ) -> None:
        self._pairs, self._held_out = pairs, held_out
        # Those that are trained on, then those that are held out.
        self._before: Scores | None = None
        super().__init__(
            plan=plan,
            train_dataset=_dataset(pairs[:1]),
            eval_dataset=_dataset(held_out[:1]) if held_out else None,
            ref_model=_Nobody(arguments["model"]),
            **arguments,
        )
        self.ref_model = None
        self.train_dataset = _Rated(self, pairs, plan.rows, 0)
        if held_out:
            self.eval_dataset = _Rated(self, held_out, np.arange(len(held_out)), len(pairs))

    @property
    def before(self) -> Scores:
        """(held-out pairs, 2)."""
        return self.rated()[len(self._pairs) :]

    def rated(self) -> Scores:
        """(pairs, 2): what the model before thinks of all, trained on or held out."""
        assert self._before is not None
        return self._before

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        """Rows are tokens already."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        """TRL's hook, which comes before the model is where it is trained."""
        return dataset

    def ready(self) -> None:
        """Raises Stopped where a stop is asked for while the pairs are read."""
        if self._before is None:
            with self.plan.run.timed("rate", pairs=len(self._pairs) + len(self._held_out)):
                self._before = self.scores([*self._pairs, *self._held_out])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        kept = Path(resume_from_checkpoint) / _BEFORE
        if kept.is_file():
            self._before = np.load(kept, allow_pickle=False)
        # Checkpoints of earlier releases have none; the model is still the one before.
        self.ready()
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _fill(self, folder: Path, model: Any, trial: Any) -> None:
        super()._fill(folder, model, trial)
        np.save(folder / _BEFORE, self.rated(), allow_pickle=False)

    def scores(self, pairs: Sequence[EncodedPair]) -> Scores:
        """(pairs, 2): what the model as it is thinks of each pair. Raises Stopped.

        Of several processes each reads every so many batches, and all have the whole.
        """
        batches = _batches(pairs)
        out = torch.zeros((len(pairs), 2), dtype=torch.float64)
        training = self.model.training
        self.model.eval()
        for first in range(0, len(batches), world.size()):
            reason = wished(self.plan.run)
            if reason:
                raise Stopped(reason, self.state.global_step)
            # All take part in each forward pass of a model that is sharded; what is left over is read for nothing.
            mine = first + world.rank()
            chosen = batches[min(mine, len(batches) - 1)]
            read = self._read([pairs[i] for i in chosen])
            if mine < len(batches):
                out[chosen] = read
        self.model.train(training)
        found: Scores = world.summed(out).numpy()
        return found

    def _read(self, pairs: Sequence[EncodedPair]) -> torch.Tensor:
        batch = self.data_collator(list(_dataset(pairs)))
        batch = {name: value.to(self.args.device) for name, value in batch.items()}
        mask = batch.pop("completion_mask")
        labels = batch["input_ids"].masked_fill(mask == 0, -100)
        with torch.no_grad(), self.accelerator.autocast():
            found = self.model(**batch, labels=labels, use_cache=False, fused_lm_head=True).log_probs
        sums: torch.Tensor = found[:, -(mask.shape[1] - 1) :].double().sum(dim=1).cpu()
        return sums.reshape(2, len(pairs)).T


class _Nobody(torch.nn.Module):
    """Stands where TRL would load or copy the model before: nobody asks it anything."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.config = model.config


class _Rated(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows of pairs as TRL's collator takes them, with their scores as soon as there are any."""

    def __init__(
        self,
        trainer: PreferenceTrainer,
        pairs: Sequence[EncodedPair],
        rows: npt.NDArray[np.int64],
        first: int,
    ) -> None:
        """`first` is where the pairs begin among those that are rated."""
        self._trainer, self._pairs, self._rows, self._first = trainer, pairs, rows, first

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: int) -> dict[str, Any]:
        row = int(self._rows[at])
        chosen, rejected = self._trainer.rated()[self._first + row].tolist()
        return _columns(self._pairs[row]) | {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}


def _batches(pairs: Sequence[EncodedPair]) -> list[list[int]]:
    """Pairs of like length together, as many as are read at once."""
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].longest)
    out: list[list[int]] = []
    for row in order:
        if not out or 2 * (len(out[-1]) + 1) * pairs[row].longest > _READ_TOKENS:
            out.append([])
        out[-1].append(row)
    return out


def _columns(pair: EncodedPair) -> dict[str, Any]:
    return {"prompt_ids": pair.prompt, "chosen_ids": pair.chosen, "rejected_ids": pair.rejected}


def _dataset(pairs: Sequence[EncodedPair]) -> Dataset:
    return Dataset.from_list([_columns(pair) for pair in pairs])
