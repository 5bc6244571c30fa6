"""Pretraining of a small causal model from scratch, tokenizer included. Knows no frames beyond `Run`, and no TRL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_model
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from services.training.checkpoint import Checkpoint, CheckpointStore, fingerprint, verify
from services.training.dataset import Split, read_rows
from services.training.hyperparameters import PretrainHyperparameters, parse
from services.training.losses import collate, micro_batches, next_token_loss
from services.training.model_folder import check_parity, new_model, prepare_torch, save_model
from services.training.muon import MuonAdamW
from services.training.plan import Schedule, epochs_for, order
from services.training.run import Result, Run, Stopped
from services.training.spec import Spec
from services.training.tokenizer import END, encode_text, train_tokenizer
from shared.errors import InvalidInput

TARGET_TOKENS = 380_000
MOST_EPOCHS = 20
STEP_TOKENS = 1152
VALIDATION_DOCUMENTS = 128
_STATE = "trainer_state.pt"


@dataclass
class Tally:
    """Sums since the last metrics frame."""

    loss: float = 0.0
    correct: int = 0
    tokens: int = 0
    steps: int = 0
    started: float = 0.0


def run(spec: Spec, run: Run) -> Result:
    """Train a base model on the text of the training split and write it to `spec.output_dir`.

    Raises InvalidInput on bad data, hyperparameters or checkpoint; Stopped when asked to stop.
    """
    wanted = parse(PretrainHyperparameters, spec.hyperparameters)
    device = prepare_torch(spec.threads, spec.seed)
    facts = {"kind": spec.kind, "seed": spec.seed, "hyperparameters": asdict(wanted)}
    mark = fingerprint(facts, {"train": list(spec.data.train), "validation": list(spec.data.validation)})
    resumed = verify(spec.resume_from, fingerprint=mark) if spec.resume_from else None

    with run.timed("load") as seen:
        texts = [row.plain_text() for row in read_rows(spec.data.train, "train")]
        if not texts:
            raise InvalidInput(
                "the training split is empty", code="invalid_training_file", param="training_file"
            )
        seen["rows"] = len(texts)
    with run.timed("tokenise") as seen:
        tokenizer = _tokenizer(texts, wanted, resumed)
        documents = _documents(tokenizer, texts, wanted.context_length)
        held_out = _held_out(spec, tokenizer, wanted.context_length)
        corpus_tokens = sum(len(d) for d in documents)
        seen |= {"vocabulary": len(tokenizer), "tokens": corpus_tokens}

    model = new_model(wanted, tokenizer).to(device)
    lengths = [len(d) for d in documents]
    batch_size = wanted.batch_size or max(4, min(64, round(STEP_TOKENS * len(lengths) / corpus_tokens)))
    if wanted.n_epochs is None and wanted.max_steps is not None:
        epochs = -(-wanted.max_steps * batch_size // len(lengths))
    else:
        epochs = wanted.n_epochs or epochs_for(corpus_tokens, TARGET_TOKENS, MOST_EPOCHS)
    rows = order(lengths, epochs, batch_size, spec.seed)
    steps = -(-len(rows) // batch_size)
    schedule = Schedule.of(min(steps, wanted.max_steps or steps), wanted.warmup_ratio, wanted.max_seconds)
    learning_rate = wanted.learning_rate or 8e-3 * (128 / wanted.hidden_size) ** 0.5
    trainer = Pretrainer(
        run, model, tokenizer, documents, held_out, rows, batch_size, schedule, learning_rate
    )
    trainer.checkpoint_every = wanted.checkpoint_every or max(25, schedule.total // 4)
    trainer.log_every = wanted.log_every or max(1, schedule.total // 50)
    trainer.store = CheckpointStore(spec.workdir / "checkpoints", mark, resumed=spec.resume_from)
    parameters = sum(p.numel() for p in model.parameters())
    run.event(
        f"pretraining {parameters:,} parameters on {len(texts):,} texts ({corpus_tokens:,} tokens) "
        f"for {schedule.total} steps",
        data={
            "parameters": parameters,
            "texts": len(texts),
            "tokens": corpus_tokens,
            "vocabulary": len(tokenizer),
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "total_steps": schedule.total,
        },
    )
    if resumed:
        trainer.restore(resumed)
        run.event(f"resumed at step {trainer.step}")
    trainer.train()

    with run.timed("save"):
        save_model(model, tokenizer, spec.output_dir)
        difference = check_parity(model, tokenizer, spec.output_dir)
    return Result(
        str(spec.output_dir),
        trainer.trained_tokens,
        {
            "parameters": parameters,
            "vocabulary": len(tokenizer),
            "steps": trainer.step,
            "epochs": trainer.epoch,
            "parity_max_abs_difference": difference,
            **trainer.last_metrics,
        },
    )


class Pretrainer:
    """The loop: Muon and AdamW over length-bucketed batches, next-token loss on every token."""

    checkpoint_every: int
    log_every: int
    store: CheckpointStore

    def __init__(
        self,
        run: Run,
        model: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        documents: Sequence[npt.NDArray[np.int32]],
        held_out: Sequence[npt.NDArray[np.int32]],
        rows: npt.NDArray[np.int64],
        batch_size: int,
        schedule: Schedule,
        learning_rate: float,
    ) -> None:
        self._run, self._model, self._tokenizer = run, model, tokenizer
        self._documents, self._held_out, self._rows = documents, held_out, rows
        self._batch_size, self._schedule, self._peak = batch_size, schedule, learning_rate
        self._device = next(model.parameters()).device
        self._optimizer = MuonAdamW(model.named_parameters(), weight_decay=0.05)
        self.step = 0
        self.trained_tokens = 0
        self.last_metrics: dict[str, float] = {}

    @property
    def epoch(self) -> float:
        return min(self.step * self._batch_size, len(self._rows)) / len(self._documents)

    def train(self) -> None:
        """Run to the end of the schedule; raises Stopped at a step boundary when asked to."""
        tally, epoch_start = Tally(started=time.perf_counter()), time.time_ns()
        while self.step < self._schedule.total:
            if self._run.stop_reason:
                self._leave(tally)
            before = int(self.epoch)
            self._one_step(tally)
            if self._schedule.after_step(self.step):
                self._run.event(f"cut to {self._schedule.total} steps to stay within max_seconds", "warn")
            last = self.step >= self._schedule.total
            boundary = int(self.epoch) > before or last
            due = self.step % self.checkpoint_every == 0 and not last
            if boundary:
                self._run.span("epoch", epoch_start, {"epoch": self.epoch, "step": self.step})
                epoch_start = time.time_ns()
            if last or due or self._schedule.logs_at(self.step, self.log_every):
                self._report(tally)
                tally = Tally(started=time.perf_counter())
            if boundary and self._held_out:
                self._validate()
            if due:
                self._save()

    def _one_step(self, tally: Tally) -> None:
        start = self.step * self._batch_size
        chosen = [self._documents[i] for i in self._rows[start : start + self._batch_size]]
        count = sum(len(d) - 1 for d in chosen)
        self._optimizer.set_rate(self._peak * self._schedule.factor(self.step))
        loss, correct = 0.0, 0
        for part in micro_batches(chosen):
            ids, labels = collate(part, self._tokenizer.pad_token_id, self._device)
            part_loss, right, _ = next_token_loss(self._model, ids, labels)
            (part_loss / count).backward()  # type: ignore[no-untyped-call]
            loss, correct = loss + part_loss.item(), correct + right
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        self.trained_tokens += count
        tally.loss += loss / count
        tally.correct += correct
        tally.tokens += count
        tally.steps += 1

    def _report(self, tally: Tally) -> None:
        seconds = time.perf_counter() - tally.started
        data = {
            "train_loss": tally.loss / tally.steps,
            "train_mean_token_accuracy": tally.correct / max(1, tally.tokens),
            "learning_rate": self._peak * self._schedule.factor(self.step - 1),
            "tokens_per_second": tally.tokens / seconds,
            "epoch": self.epoch,
            "total_steps": self._schedule.total,
        }
        self.last_metrics = self.last_metrics | data
        self._run.metrics(self.step, data)
        self._run.progress(self.step, self._schedule.total)

    def _validate(self) -> None:
        with self._run.timed("eval", step=self.step), torch.no_grad():
            self._model.eval()
            loss, correct, count = 0.0, 0, 0
            for documents in micro_batches(self._held_out):
                ids, labels = collate(documents, self._tokenizer.pad_token_id, self._device)
                part_loss, right, number = next_token_loss(self._model, ids, labels)
                loss, correct, count = loss + part_loss.item(), correct + right, count + number
            self._model.train()
        found = {"valid_loss": loss / count, "valid_mean_token_accuracy": correct / count}
        self.last_metrics = self.last_metrics | found
        self._run.metrics(self.step, self.last_metrics)

    def _leave(self, tally: Tally) -> None:
        reason = self._run.stop_reason or "drain"
        if reason != "cancel" and self.step > 0:
            if tally.steps:
                self._report(tally)
            self._save()
        raise Stopped(reason, self.step)

    def _save(self) -> None:
        with self._run.timed("checkpoint", step=self.step):
            made = self.store.write(self.step, self._fill, self.last_metrics)
        self._run.checkpoint(self.step, str(made.path), made.manifest_sha256, made.metrics)

    def _fill(self, folder: Path) -> None:
        save_model(self._model, self._tokenizer, folder)
        state: dict[str, Any] = {
            "step": self.step,
            "trained_tokens": self.trained_tokens,
            "schedule": self._schedule.state(),
            "optimizer": self._optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        torch.save(state, folder / _STATE)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue exactly where `checkpoint` (already verified) was written."""
        load_model(self._model, checkpoint.path / "model.safetensors")
        state = torch.load(checkpoint.path / _STATE, weights_only=True, map_location="cpu")
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.restore(state["schedule"])
        self.step, self.trained_tokens = state["step"], state["trained_tokens"]
        self.last_metrics = dict(checkpoint.metrics)
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])


def _tokenizer(
    texts: list[str], wanted: PretrainHyperparameters, resumed: Checkpoint | None
) -> PreTrainedTokenizerBase:
    if resumed:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(resumed.path, local_files_only=True)
        return loaded
    return train_tokenizer(texts, wanted.vocab_size, wanted.context_length)


def _documents(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], context_length: int
) -> list[npt.NDArray[np.int32]]:
    """Each text with the end sign, in pieces of at most `context_length` tokens; a piece of one token is left out."""
    end = tokenizer.convert_tokens_to_ids(END)
    out = []
    for text in texts:
        ids = np.asarray([*encode_text(tokenizer, text), end], dtype=np.int32)
        out += [ids[i : i + context_length] for i in range(0, len(ids), context_length)]
    return [d for d in out if len(d) > 1]


def _held_out(
    spec: Spec, tokenizer: PreTrainedTokenizerBase, context_length: int
) -> list[npt.NDArray[np.int32]]:
    split: Split = "validation"
    texts = [row.plain_text() for row in read_rows(spec.data.validation, split, "validation_file")]
    documents = _documents(tokenizer, texts, context_length)
    picked = np.random.default_rng(spec.seed).permutation(len(documents))[:VALIDATION_DOCUMENTS]
    return sorted((documents[i] for i in picked), key=len)
