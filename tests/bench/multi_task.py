"""Whether a task of few rows gains from others on its trunk: alone, and together at some temperatures.

    python -m tests.bench.multi_task [--temperatures 1 2 100] [--encoder-set max_steps=300 batch_size=64]

Chinese questions of the shipped material, no phrasing on both sides, on an encoder that is trained here first from the
shipped paraphrases. `intent` has few rows; `topics` (the intents of one or two questions) and `answer` (its right
answer before others) have more of the same desk. Together they see as many rows as alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.samples.heads import rows
from services.training.heads.scoring import MAIN
from tests.bench.heads import parsed, run_child, trained_encoder

FEW, MANY, HELD_OUT = 104, 312, 260
HEADS = {"intent": "single_label", "topics": "multi_label", "answer": "rank_pairwise"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--temperatures", nargs="+", type=float, default=[1.0, 2.0, 100.0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--encoder-set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = {name: _files(name, folder, asked.seed) for name in HEADS}
        base = trained_encoder(folder, parsed(asked.encoder_set), asked)
        common = {"seed": asked.seed, "base_dir": str(base), "threads": asked.threads}
        for name, head in HEADS.items():
            choice = {"head": head, "method": "full"}
            spec = {"kind": "head", "choice": choice, "data": data[name], **common}
            told = run_child(spec | {"hyperparameters": {"n_epochs": asked.epochs}}, folder / f"alone-{name}")
            _tell("alone", {name: told})
        parts = [
            {"name": name, "choice": {"head": head, "method": "full"}, "data": data[name]}
            for name, head in HEADS.items()
        ]
        for temperature in asked.temperatures:
            told = run_child(
                {
                    "kind": "multi_task",
                    "method": "full",
                    "parts": parts,
                    "data": {},
                    "hyperparameters": {"n_epochs": asked.epochs, "temperature": temperature},
                    **common,
                },
                folder / f"together-{temperature:g}",
            )
            _tell(f"together, T = {temperature:g}", told["tasks"])


def _files(name: str, folder: Path, seed: int) -> dict[str, list[str]]:
    count = FEW if name == "intent" else MANY
    parts = rows(HEADS[name], "zh", seed + 7, training=count, held_out=HELD_OUT)  # type: ignore[arg-type]
    return {
        split: [str(_write(folder / f"{name}_{split}.jsonl", part))]
        for split, part in zip(("train", "validation"), parts, strict=True)
    }


def _write(path: Path, found: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return path


def _tell(how: str, tasks: dict[str, dict[str, Any]]) -> None:
    for name, told in tasks.items():
        main = MAIN[HEADS[name]]
        figures = {"baseline": told["baseline"][main], "trained": told["held_out"][main]}
        about = {"how": how, "task": name, "rows": told["rows"], "steps": told["steps"], "metric": main}
        print(json.dumps(about | figures), flush=True)


if __name__ == "__main__":
    main()
