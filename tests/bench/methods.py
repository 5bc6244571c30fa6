"""Every way of training once, on shipped samples, through the HTTP API of a platform of its own.

    python -m tests.bench.methods [METHOD ...] [--json FILE] [--quick]

Prints method, metric, baseline, trained, what is held out, and seconds from request to end. `--quick` trains for a
moment and proves that all of it runs: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.samples import heads as head_rows
from deploy.samples import paraphrases
from tests.bench.asked import Asked
from tests.bench.heads import minilm
from tests.bench.place import open_place
from tests.harness import ROOT

SAMPLES = ROOT / "deploy" / "samples" / "service_dialogues.jsonl"
SEED = 7
# The figure that a row shows, the first of these that a result has; a lower perplexity is the better one.
METRICS = (
    "accuracy",
    "micro_f1",
    "spearman",
    "ndcg",
    "perplexity",
    "preference_accuracy",
    "recall_at_1",
    "token_f1",
)
# What is held out, where it is no rows.
UNITS = {"perplexity": "tokens", "preference_accuracy": "pairs"}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    method: str
    metric: str
    against: str
    baseline: float
    trained: float
    held_out: str
    seconds: float


class Bench(Asked):
    """Models and data are made when a method first needs them."""

    def seconds(self, full: float) -> float:
        """How long a run may train."""
        return 2.0 if self.place.quick else full

    def train(self, type_: str, **body: Any) -> tuple[dict[str, Any], float]:
        return self.done("/v1/training/jobs", {"type": type_, "seed": SEED, **body})

    def split(self, rows: tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]]]) -> dict[str, str]:
        """Training and held-out rows as files."""
        names = ("training_file", "validation_file")
        return {name: self.upload_rows(part) for name, part in zip(names, rows, strict=True)}

    def head_files(self, head: Any, code: str) -> dict[str, str]:
        sizes = {"training": self.place.size(520, 130), "held_out": self.place.size(260, 78)}
        return self.split(head_rows.rows(head, code, SEED, **sizes))

    @cached_property
    def version(self) -> str:
        """The shipped dialogues, governed."""
        body = {"name": "service", "file_id": self.upload(SAMPLES.read_bytes(), "user_data")}
        return str(self.done("/v1/datasets", body)[0]["version_id"])

    @cached_property
    def pretrained(self) -> tuple[dict[str, Any], float]:
        return self.train(
            "pretrain", name="base", training_file=self.version, hyperparameters=self._short(90)
        )

    @cached_property
    def base(self) -> str:
        return str(self.pretrained[0]["model"])

    @cached_property
    def small(self) -> str:
        """A quarter of the base, for distillation."""
        shape = {"hidden_size": 64, "layers": 2}
        hyperparameters = self._short(40) | shape
        told = self.train(
            "pretrain", name="small", training_file=self.version, hyperparameters=hyperparameters
        )
        return str(told[0]["model"])

    @cached_property
    def tuned(self) -> tuple[dict[str, Any], float]:
        return self._sft("lora")

    @cached_property
    def minilm(self) -> str:
        """Real weights, which read English."""
        return self.add_model(minilm(), "minilm")

    def _short(self, seconds: float) -> dict[str, Any]:
        return {"max_seconds": self.seconds(seconds)} | ({"max_steps": 20} if self.place.quick else {})

    def _sft(self, method: str) -> tuple[dict[str, Any], float]:
        hyperparameters = {"method": method, **self._short(60)}
        return self.train("sft", model=self.base, training_file=self.version, hyperparameters=hyperparameters)

    def pretrain(self) -> list[Row]:
        return [row("pretrain", *self.pretrained)]

    def continued(self) -> list[Row]:
        told = self.train(
            "pretrain",
            name="further",
            model=self.base,
            training_file=self.version,
            hyperparameters=self._short(30),
        )
        return [row("continue", *told)]

    def sft(self) -> list[Row]:
        found = []
        asked = {"dataset_version": self.version, "limit": self.place.size(200, 10)}
        before, _ = self.done("/v1/evaluations", {"model": self.base, **asked})
        for method, (told, seconds) in (("lora", self.tuned), ("full", self._sft("full"))):
            after, _ = self.done("/v1/evaluations", {"model": told["fine_tuned_model"], **asked})
            scores = before["token_f1"], after["token_f1"]
            found.append(
                Row(f"sft, {method}", "token_f1", "the base", *scores, f"{after['n']:,} rows", seconds)
            )
        return found

    def dpo(self) -> list[Row]:
        files = {}
        for name, file, quick in (
            ("training_file", "preferences.jsonl", 40),
            ("validation_file", "preferences_held_out.jsonl", 20),
        ):
            lines = (SAMPLES.parent / file).read_bytes().splitlines(keepends=True)
            files[name] = self.upload(b"".join(lines[: self.place.size(len(lines), quick)]))
        model = self.tuned[0]["fine_tuned_model"]
        return [row("dpo", *self.train("dpo", model=model, **files, hyperparameters=self._short(60)))]

    def heads(self) -> list[Row]:
        found = []
        kinds = ("single_label", "multi_label", "regression", "rank_pairwise", "rank_pointwise")
        for head in kinds:
            told = self.train(
                "head",
                name=f"head-{head}",
                head=head,
                model=self.minilm,
                method="frozen",
                **self.head_files(head, "en"),
                hyperparameters=self._short(60),
            )
            found.append(row(f"head, {head} (frozen MiniLM)", *told))
        return found

    def tuned_head(self) -> list[Row]:
        files = self.head_files("single_label", "en")
        about = {"name": "head-full", "head": "single_label", "model": self.minilm, "method": "full"}
        told = self.train("head", **about, **files, hyperparameters=self._short(150))
        return [row("head, single_label (MiniLM tuned)", *told)]

    def lstm(self) -> list[Row]:
        files = self.head_files("single_label", "en")
        about = {"name": "lstm", "head": "single_label", "method": "lstm"}
        return [
            row("lstm, single_label", *self.train("head", **about, **files, hyperparameters=self._short(60)))
        ]

    def encoder(self) -> list[Row]:
        material = paraphrases.load()
        each, composed = self.place.size(paraphrases.EACH, 4), self.place.size(paraphrases.COMPOSED, 0)
        training = paraphrases.training_rows(material, SEED, each=each, composed=composed)
        files = self.split((training, paraphrases.validation_rows(material, SEED)))
        told = self.train("encoder", name="zh-encoder", **files, hyperparameters=self._short(180))
        return [row("encoder (Chinese paraphrases)", *told)]

    def multi_task(self) -> list[Row]:
        """A small task of a quarter of the rows beside two larger ones, and alone."""
        small = {"training": self.place.size(130, 130), "held_out": self.place.size(260, 78)}
        files = self.split(head_rows.rows("single_label", "en", SEED, **small))
        tasks = [
            {"name": "intent", "head": "single_label", **files},
            {"name": "topics", "head": "multi_label", **self.head_files("multi_label", "en")},
            {"name": "answer", "head": "rank_pairwise", **self.head_files("rank_pairwise", "en")},
        ]
        about = {"name": "shared", "model": self.minilm, "method": "lora", "tasks": tasks}
        told, seconds = self.train("multi_task", **about, hyperparameters=self._short(150))
        found = [row(f"multi_task, {name}", one, seconds) for name, one in told["tasks"].items()]
        alone = {"name": "alone", "head": "single_label", "model": self.minilm, "method": "lora"}
        single = self.train("head", **alone, **files, hyperparameters=self._short(60))
        return [*found, row("the same intent rows alone (lora)", *single)]

    def distill(self) -> list[Row]:
        teacher = self.tuned[0]["fine_tuned_model"]
        told, seconds = self.train(
            "distill",
            teacher=teacher,
            model=self.small,
            training_file=self.version,
            max_prompts=self.place.size(600, 12),
            held_out_rows=self.place.size(100, 6),
            generation={"max_tokens": 96},
            hyperparameters=self._short(60),
        )
        held = told["held_out"]
        rows, against = int(held["student"]["rows"]), f"its base (teacher {held['teacher']['token_f1']:.3f})"
        scores = held["base"]["token_f1"], held["student"]["token_f1"]
        return [Row("distill", "token_f1", against, *scores, f"{rows:,} rows", seconds)]


METHODS: dict[str, Callable[[Bench], list[Row]]] = {
    "pretrain": Bench.pretrain,
    "continue": Bench.continued,
    "sft": Bench.sft,
    "dpo": Bench.dpo,
    "heads": Bench.heads,
    "head_full": Bench.tuned_head,
    "lstm": Bench.lstm,
    "encoder": Bench.encoder,
    "multi_task": Bench.multi_task,
    "distill": Bench.distill,
}


def row(method: str, told: dict[str, Any], seconds: float) -> Row:
    """From a job's result, which has its figures and its baseline's."""
    held_out, baseline = told["held_out"], told["baseline"]
    metric = next(name for name in METRICS if name in held_out)
    unit = UNITS.get(metric, "rows")
    count = int(held_out.get(unit) or told["held_out_rows"])
    return Row(
        method, metric, baseline["name"], baseline[metric], held_out[metric], f"{count:,} {unit}", seconds
    )


def show(rows: Sequence[Row], console: Console) -> None:
    table = Table("method", "metric", "baseline", "", "trained", "held out", "seconds")
    for one in rows:
        figures = f"{one.baseline:.3f}", f"{one.trained:.3f}"
        table.add_row(one.method, one.metric, one.against, *figures, one.held_out, f"{one.seconds:.0f}")
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--quick", action="store_true", help="train for a moment: the figures mean nothing")
    asked = parser.parse_args()
    unknown = sorted(set(asked.methods) - METHODS.keys())
    if unknown:
        parser.error(f"no method {', '.join(unknown)}; there are {', '.join(METHODS)}")
    console, progress = Console(width=None if sys.stdout.isatty() else 160), Console(stderr=True)
    rows: list[Row] = []
    try:
        with open_place(quick=asked.quick) as place:
            bench = Bench(place)
            for name, run in METHODS.items():
                if asked.methods and name not in asked.methods:
                    continue
                began = time.monotonic()
                rows += run(bench)
                progress.print(f"{name}: {time.monotonic() - began:.0f} s")
    finally:
        # What was measured before one failed, or before somebody lost patience, is still worth a look.
        show(rows, console)
        if asked.json:
            asked.json.write_text(json.dumps([asdict(one) for one in rows], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
