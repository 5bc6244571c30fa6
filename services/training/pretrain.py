"""A causal model on texts: a small one from scratch, tokenizer included, or one that exists. Knows no TRL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from services.training.checkpoint import Checkpoint, CheckpointStore, fingerprint, verify
from services.training.hyperparameters import PretrainHyperparameters, parse
from services.training.model_folder import (
    context_length,
    linear_layers,
    new_model,
    pin_decoding,
    prepare_torch,
    save_adapter,
    save_model,
)
from services.training.parity import leave_samples, sample_rows
from services.training.plan import Rhythm, epochs_for, order
from services.training.pretrainer import Documents, Pace, Pretrainer
from services.training.run import Result, Run
from services.training.spec import Spec
from services.training.start import load_start, trained_on, weights_of
from services.training.texts import cut_texts, piece_length, read_texts, watched
from services.training.tokenizer import train_tokenizer
from shared.contracts.early_stopping import check_watched
from shared.errors import InvalidInput

TARGET_TOKENS = 380_000
MOST_EPOCHS = 20
STEP_TOKENS = 1152


def run(spec: Spec, run: Run) -> Result:
    """Train a model on the text of the training split and write it to `spec.output_dir`: a base, or an adapter where
    one was started from.

    Raises InvalidInput on bad data, hyperparameters or checkpoint; Stopped when asked to stop.
    """
    wanted = parse(PretrainHyperparameters, spec.hyperparameters)
    device = prepare_torch(spec.threads, spec.seed)
    fresh = spec.base_dir is None
    mark = _fingerprint(spec, wanted)
    resumed = verify(spec.resume_from, fingerprint=mark) if spec.resume_from else None

    with run.timed("load") as seen:
        texts, others = read_texts(spec)
        seen["rows"] = len(texts)
        model: Any = None
        if fresh:
            tokenizer = _tokenizer(texts, wanted, resumed)
        else:
            model, tokenizer = load_start(spec, device, merge=False, chats=False)
    length = wanted.context_length if fresh else piece_length(spec, context_length(model))
    with run.timed("tokenise") as seen:
        documents = cut_texts(tokenizer, texts, length)
        if not documents:
            raise InvalidInput(
                "no text of the training split has two tokens or more",
                code="invalid_training_file",
                param="training_file",
            )
        held_out = watched(cut_texts(tokenizer, others, length), spec.seed)
        check_watched(wanted, bool(held_out))
        corpus_tokens = sum(len(d) for d in documents)
        seen |= {"vocabulary": len(tokenizer), "tokens": corpus_tokens}

    if fresh:
        model = new_model(wanted, tokenizer).to(device)
        pin_decoding(model, spec.decoding)
    elif spec.adapter_dir is not None:
        torch.manual_seed(spec.seed)
        model = trained_on(model, spec.adapter_dir, {}, 0.0)
    pace, epochs = _pace(spec, wanted, [len(d) for d in documents], model)
    store = CheckpointStore(spec.workdir / "checkpoints", mark, resumed=spec.resume_from)
    trainer = Pretrainer(run, model, tokenizer, documents, held_out, pace, store, fresh=fresh)
    facts = {
        "parameters": model.num_parameters(),
        "trainable_parameters": trainer.trainable_parameters,
        "vocabulary": len(tokenizer),
        "context_length": context_length(model),
    }
    run.event(
        f"{'pretraining' if fresh else 'training on'} {trainer.trainable_parameters:,} parameters on {len(texts):,} "
        f"texts ({corpus_tokens:,} tokens) for {pace.rhythm.schedule.total} steps",
        data={
            **facts,
            "texts": len(texts),
            "tokens": corpus_tokens,
            "epochs": epochs,
            "batch_size": pace.batch_size,
            "learning_rate": pace.rhythm.learning_rate,
            "total_steps": pace.rhythm.schedule.total,
        },
    )
    baseline = _baseline(trainer, documents, held_out, len(tokenizer), fresh)
    if resumed:
        trainer.restore(resumed)
        run.event(f"resumed at step {trainer.step}")
    trainer.train()

    found = _found(*trainer.evaluate()) if held_out else None
    if found and baseline:
        run.event(
            f"held out: perplexity {found['perplexity']:.4g}, and {baseline['perplexity']:.4g} by {baseline['name']}",
            data={"held_out": found, "baseline": baseline},
        )
    with run.timed("save"):
        _save(spec, model, tokenizer)
        leave_samples(model, tokenizer, sample_rows(spec, plain=True), spec.workdir)
    return Result(
        str(spec.output_dir),
        trainer.trained_tokens,
        {
            **facts,
            **trainer.ends,
            "epochs": trainer.epoch,
            **({"held_out": found, "baseline": baseline} if found else {}),
            # What an adapter on it can go on is known before a worker is taken.
            **({"linear_layers": linear_layers(model)} if spec.adapter_dir is None else {}),
            **trainer.last_metrics,
        },
    )


def _fingerprint(spec: Spec, wanted: PretrainHyperparameters) -> str:
    facts = {"kind": spec.kind, "seed": spec.seed, "hyperparameters": wanted.identity()}
    if spec.base_dir is not None:
        facts["base"] = weights_of(spec)
    return fingerprint(facts, {"train": list(spec.data.train), "validation": list(spec.data.validation)})


def _tokenizer(
    texts: list[str], wanted: PretrainHyperparameters, resumed: Checkpoint | None
) -> PreTrainedTokenizerBase:
    if resumed:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(resumed.path, local_files_only=True)
        return loaded
    return train_tokenizer(texts, wanted.vocab_size, wanted.context_length)


def _pace(
    spec: Spec, wanted: PretrainHyperparameters, lengths: Sequence[int], model: Any
) -> tuple[Pace, int]:
    """How long and how fast, and the epochs. From scratch 8e-3 at a width of 128, less for wider models; else 1e-4
    (an adapter 2e-4) at a width of 4096, higher for narrower ones."""
    tokens, width = sum(lengths), int(model.config.get_text_config().hidden_size)
    batch_size = wanted.batch_size or max(4, min(64, round(STEP_TOKENS * len(lengths) / tokens)))
    if wanted.n_epochs is None and wanted.max_steps is not None:
        epochs = -(-wanted.max_steps * batch_size // len(lengths))
    elif spec.base_dir is None:
        epochs = wanted.n_epochs or epochs_for(tokens, TARGET_TOKENS, MOST_EPOCHS)
    else:
        # What is known already is lost by many rounds over little.
        epochs = wanted.n_epochs or epochs_for(tokens, TARGET_TOKENS // 2, 3)
    rows = order(lengths, epochs, batch_size, spec.seed)
    steps = -(-len(rows) // batch_size)
    if spec.base_dir is None:
        usual = 8e-3 * (128 / width) ** 0.5
    else:
        usual = (1e-4 if spec.adapter_dir is None else 2e-4) * max(1.0, 4096 / width) ** 0.75
    # A model from scratch is nearly always best at its end, and a copy of it is large; one that knew something may
    # have lost it on the way.
    keeps = spec.base_dir is not None or wanted.early_stopping_patience is not None
    rhythm = Rhythm.of(wanted, min(steps, wanted.max_steps or steps), usual, keeps=keeps)
    return Pace(rows, batch_size, rhythm), epochs


def _baseline(
    trainer: Pretrainer, documents: Documents, held_out: Documents, vocabulary: int, fresh: bool
) -> dict[str, Any] | None:
    """What the held-out texts cost before: by the model that is started from, or by how often each token comes."""
    if not held_out:
        return None
    if not fresh:
        return {"name": "the model before", **_found(*trainer.evaluate())}
    counts = np.bincount(np.concatenate([d[1:] for d in documents]), minlength=vocabulary) + 1.0
    asked = np.concatenate([d[1:] for d in held_out])
    chances = counts / counts.sum()
    right = float((asked == counts.argmax()).mean())
    return {
        "name": "the frequency of tokens",
        **_found(float(-np.log(chances[asked]).mean()), right, len(asked)),
    }


def _found(loss: float, accuracy: float, tokens: int) -> dict[str, float]:
    # Beyond this a float ends; such a model knows nothing anyhow.
    perplexity = math.exp(min(loss, 700.0))
    return {"loss": loss, "perplexity": perplexity, "mean_token_accuracy": accuracy, "tokens": float(tokens)}


def _save(spec: Spec, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    if spec.adapter_dir is None:
        save_model(model, tokenizer, spec.output_dir)
    else:
        save_adapter(model, tokenizer, spec.output_dir)
