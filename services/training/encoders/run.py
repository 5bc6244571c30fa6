"""An encoder from rows to a folder that can be served: reads, checks, trains, measures on held-out rows, saves."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from services.training.checkpoint import CheckpointStore, fingerprint, verify
from services.training.dataset import is_version
from services.training.encoders.measure import Rows
from services.training.encoders.model import EncoderModel, check_parity, new_tokenizer, save_encoder
from services.training.encoders.trainer import EncoderTrainer, Pace
from services.training.heads.examples import Example, hold_out, labels_of, read_examples
from services.training.hyperparameters import EncoderHyperparameters, parse
from services.training.model_folder import prepare_torch
from services.training.plan import Rhythm
from services.training.run import Result, Run
from services.training.spec import Spec
from shared.errors import InvalidInput

# Texts that all epochs together should come to, where nothing is asked for.
_TEXTS = 160_000
# Looks at held-out rows at most, about: each makes the vectors of thousands of texts, and epochs may be of few steps.
_LOOKS = 25


def run(spec: Spec, run: Run) -> Result:
    """Train an encoder and write it to `spec.output_dir`.

    Raises InvalidInput on bad data, hyperparameters or checkpoint; Stopped when asked to stop.
    """
    wanted = parse(EncoderHyperparameters, spec.hyperparameters)
    device = prepare_torch(spec.threads, spec.seed)
    facts = {"kind": spec.kind, "seed": spec.seed, "hyperparameters": wanted.identity()}
    mark = fingerprint(facts, {"train": list(spec.data.train), "validation": list(spec.data.validation)})
    resumed = verify(spec.resume_from, fingerprint=mark) if spec.resume_from else None

    with run.timed("load") as seen:
        training, held_out = _read(spec, wanted)
        labels = {label: number for number, label in enumerate(labels_of(training))}
        seen |= {"rows": len(training), "held_out": len(held_out), "labels": len(labels)}
    torch.manual_seed(spec.seed)
    tokenizer = new_tokenizer((one.texts[0] for one in training), wanted.max_length)
    model = EncoderModel.new(tokenizer, wanted, device)
    with run.timed("tokenise"):
        rows, watched = _rows(model, training, labels), _rows(model, held_out, labels)
    pace = _pace(rows, wanted, spec.seed)
    store = CheckpointStore(spec.workdir / "checkpoints", mark, resumed=spec.resume_from)
    trainer = EncoderTrainer(run, model, rows, watched, pace, store)
    told = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "rows": len(training),
        "held_out_rows": len(held_out),
        "labels": len(labels),
        "dimensions": wanted.hidden_size,
        "context_length": wanted.max_length,
    }
    run.event(
        f"training an encoder on {len(training):,} texts of {len(labels):,} meanings for "
        f"{pace.rhythm.schedule.total} steps",
        data={**told, "batch_size": pace.batch_size, "total_steps": pace.rhythm.schedule.total},
    )
    with run.timed("eval", step=0):
        # Bags of characters find something by themselves: that is what training has to beat.
        baseline = {"name": "the untrained encoder", **trainer.evaluate()}
    if resumed:
        trainer.restore(resumed)
        run.event(f"resumed at step {trainer.step}")
    trainer.train()

    with run.timed("eval", step=trainer.step):
        figures = trainer.evaluate()
    run.event(
        f"held out: {figures['recall_at_1']:.3f} found first, and {baseline['recall_at_1']:.3f} by {baseline['name']}",
        data={"held_out": figures, "baseline": baseline},
    )
    with run.timed("save"):
        save_encoder(model, spec.output_dir)
        parity = check_parity(model, spec.output_dir, device)
    return Result(
        str(spec.output_dir),
        trainer.trained_tokens,
        {
            **told,
            **trainer.ends,
            "held_out": figures,
            "baseline": baseline,
            "parity": parity,
            "train_loss": trainer.last_metrics["train_loss"],
        },
    )


def _read(spec: Spec, wanted: EncoderHyperparameters) -> tuple[list[Example], list[Example]]:
    """(training, held out); without a validation file a part of the rows is held out."""
    training = read_examples(spec.data.train, "train", "single_label", "training_file")
    if spec.data.validation or any(is_version(path, "training_file") for path in spec.data.train):
        held_out = read_examples(spec.data.validation, "validation", "single_label", "validation_file")
    else:
        training, held_out = hold_out(training, wanted.validation_share, spec.seed)
    known = set(labels_of(training))
    if len(known) < 2 or len(known) == len(training):
        raise InvalidInput(
            f"the training split has {len(training)} texts of {len(known)} labels; texts that mean the same need one "
            "label, and at least two labels are needed",
            code="invalid_training_file",
            param="training_file",
        )
    held_out = [one for one in held_out if one.target in known]
    if not held_out:
        raise InvalidInput(
            "no held-out text has a label of the training split, so nothing could be measured",
            code="invalid_training_file",
            param="validation_file",
        )
    return training, held_out


def _rows(model: EncoderModel, examples: Sequence[Example], labels: dict[str, int]) -> Rows:
    return Rows(
        [model.encode(one.texts[0]) for one in examples], [labels[str(one.target)] for one in examples]
    )


def _pace(rows: Rows, wanted: EncoderHyperparameters, seed: int) -> Pace:
    size = min(wanted.batch_size or 128, len(rows))
    each = max(1, len(rows) // size)
    epochs = wanted.n_epochs or max(1, round(_TEXTS / len(rows)))
    total = wanted.max_steps or epochs * each
    between = each * max(1, round(total / each / _LOOKS))
    rhythm = Rhythm.of(wanted, total, 1e-3, least=50)
    return Pace(size, each, between, rhythm, wanted.temperature, seed)
