"""How long training jobs were said to take, and took: asked and trained through the HTTP API of a platform of its own.

Each way is trained twice, the second time longer: the first estimate has no run of its way to go by, the second one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from deploy.samples import paraphrases
from tests.bench.asked import ENDED
from tests.bench.methods import SAMPLES, SEED, Bench

POLL_S = 0.25
# Of the steps: when what is said of the end is held against the end.
LOOKS = (0.25, 0.5)


@dataclass(frozen=True)
class Lap:
    """Seconds. `finishes` are what `estimated_finish` said at a quarter and at half of the steps, as seconds from the
    request; None where it said nothing yet, or where the job itself takes no steps."""

    way: str
    basis: str
    estimated: float | None
    real: float
    finishes: tuple[float | None, ...]
    result: dict[str, Any]
    # Of the machine: processes that ran or wanted to, over the last minute of the lap.
    load: float

    @property
    def error(self) -> float | None:
        """By how much of the real duration the estimate was off."""
        return None if self.estimated is None else (self.estimated - self.real) / self.real


class Durations(Bench):
    """Runs are short: `quick` makes them so short that their figures mean nothing."""

    def lap(self, way: str, type_: str, **body: Any) -> Lap:
        """Ask what the job would take, have it done, and listen to what it says of its end meanwhile."""
        asked = {"type": type_, "seed": SEED, **body}
        told = self.post("/v1/training/estimates", asked)
        began, began_at = time.monotonic(), time.time()
        job = self.post("/v1/training/jobs", asked)
        finishes: list[float | None] = [None] * len(LOOKS)
        while job["status"] not in ENDED:
            time.sleep(POLL_S)
            job = self.http.get(f"/v1/jobs/{job['id']}").json()
            step, total = (job["progress"].get(name) for name in ("step", "total_steps"))
            expected = job["estimated_finish"]
            if step and total and expected is not None:
                for place, share in enumerate(LOOKS):
                    if finishes[place] is None and share <= step / total < 1:
                        finishes[place] = expected - began_at
        if job["status"] != "succeeded":
            raise SystemExit(f"{way}: {job['status']}: {job['error']}")
        real = time.monotonic() - began
        return Lap(
            way,
            told["basis"]["seconds"],
            told["seconds"],
            real,
            tuple(finishes),
            job["result"],
            os.getloadavg()[0],
        )

    def steps(self, full: int) -> dict[str, Any]:
        return {"max_steps": self.place.size(full, 6)}

    @cached_property
    def base(self) -> str:
        """The model that the first lap made, or one like it."""
        return self._pretrained("timed-base")

    @cached_property
    def small(self) -> str:
        return self._pretrained("timed-small", hidden_size=64, layers=2)

    def _pretrained(self, name: str, **shape: int) -> str:
        wanted = {**self.steps(40), **shape}
        told, _ = self.train("pretrain", name=name, training_file=self.version, hyperparameters=wanted)
        return str(told["model"])

    @cached_property
    def wordings(self) -> str:
        """Labelled Chinese questions."""
        material, each = paraphrases.load(), self.place.size(20, 4)
        return self.upload_rows(paraphrases.training_rows(material, SEED, each=each, composed=0))

    def laps(self, only: str = "") -> Iterator[Lap]:
        """Both laps of each way whose name has `only` in it, one behind the other: a neighbour may come or go."""
        for name, way in WAYS.items():
            for number in (1, 2) if only in name else ():
                type_, body, first, second = way(self)
                wanted = {**body.pop("hyperparameters", {}), **self.steps(first if number == 1 else second)}
                if "name" in body:
                    body["name"] = f"{body['name']}-{number}"
                found = self.lap(f"{name}, {number}", type_, **body, hyperparameters=wanted)
                if type_ == "pretrain":
                    self.__dict__.setdefault("base", found.result["model"])
                yield found


Way = Callable[[Durations], tuple[str, dict[str, Any], int, int]]


def _tuning(type_: str, method: str, first: int, second: int) -> Way:
    def way(bench: Durations) -> tuple[str, dict[str, Any], int, int]:
        body = {
            "model": bench.base,
            "training_file": bench.version,
            "hyperparameters": {"method": method},
        }
        return type_, body, first, second

    return way


def _pairs(bench: Durations) -> tuple[str, dict[str, Any], int, int]:
    lines = (SAMPLES.parent / "preferences.jsonl").read_bytes().splitlines(keepends=True)
    body = {"model": bench.base, "training_file": bench.upload(b"".join(lines))}
    return "dpo", {**body, "hyperparameters": {"method": "lora"}}, 40, 100


def _head(method: str, first: int, second: int) -> Way:
    def way(bench: Durations) -> tuple[str, dict[str, Any], int, int]:
        files = bench.head_files("single_label", "en")
        body = {"name": f"head-{method}", "head": "single_label", "method": method, **files}
        return "head", body if method == "lstm" else {**body, "model": bench.minilm}, first, second

    return way


def _multi_task(bench: Durations) -> tuple[str, dict[str, Any], int, int]:
    tasks = [
        {"name": name, "head": head, **bench.head_files(head, "en")}
        for name, head in (("intent", "single_label"), ("topics", "multi_label"))
    ]
    return "multi_task", {"name": "shared", "model": bench.minilm, "method": "lora", "tasks": tasks}, 20, 50


def _distill(bench: Durations) -> tuple[str, dict[str, Any], int, int]:
    body = {
        "teacher": bench.base,
        "model": bench.small,
        "training_file": bench.version,
        "max_prompts": bench.place.size(200, 12),
        "held_out_rows": bench.place.size(40, 6),
        "generation": {"max_tokens": 64},
    }
    return "distill", body, 60, 150


WAYS: dict[str, Way] = {
    "pretrain": lambda bench: ("pretrain", {"name": "timed", "training_file": bench.version}, 60, 200),
    "sft lora": _tuning("sft", "lora", 60, 200),
    "sft full": _tuning("sft", "full", 60, 200),
    "dpo lora": _pairs,
    "head frozen": _head("frozen", 2000, 6000),
    "head full": _head("full", 15, 40),
    "head lstm": _head("lstm", 200, 800),
    "encoder": lambda bench: ("encoder", {"name": "timed-encoder", "training_file": bench.wordings}, 40, 120),
    "multi_task": _multi_task,
    "distill": _distill,
}


def lines(laps: Sequence[Lap]) -> Iterator[str]:
    """A table in Markdown: what was said, what was, and the end as it was said on the way."""
    yield "| run | estimated | real | error | at a quarter | at half | load | goes by |"
    yield "|---|---:|---:|---:|---:|---:|---:|---|"
    for lap in laps:
        yield "| " + " | ".join(_cells(lap)) + " |"


def _cells(lap: Lap) -> list[str]:
    estimated = "not known" if lap.estimated is None else f"{lap.estimated:.0f} s"
    error = "" if lap.error is None else f"{lap.error:+.0%}"
    ends = ["" if end is None else f"{(end - lap.real) / lap.real:+.0%}" for end in lap.finishes]
    return [lap.way, estimated, f"{lap.real:.0f} s", error, *ends, f"{lap.load:.0f}", lap.basis]
