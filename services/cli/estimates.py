"""`heliu train estimate`: what a training job would take, before it is submitted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.client import connect
from services.cli.lifecycle import Json
from services.cli.listing import text
from services.cli.output import out, print_json
from services.cli.plots import span
from shared.errors import InvalidInput


def estimate(
    body: Annotated[
        str,
        typer.Argument(metavar="FILE", help="JSON of a job as /v1/training/jobs takes it; - reads stdin."),
    ],
    as_json: Json = False,
) -> None:
    """Memory, steps and time of a training job, whether a worker can hold it, and what would fit."""
    asked = _read(body)
    with closing(connect()) as client:
        told = client.post("/v1/training/estimates", asked)
    if as_json:
        print_json(told)
        return
    for name, value in lines(told):
        out.print(f"{name:<8}  {text(value)}")


def lines(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, what is told of it) of each line for people."""
    basis, memory = told["basis"], told["memory"]
    if memory is None:
        yield "memory", basis["memory"]
    else:
        parts = ", ".join(f"{name} {_size(size)}" for name, size in memory.items() if name != "total")
        yield "memory", f"{_size(memory['total'])} ({parts}); {basis['memory']}"
    if told["steps"] is not None:
        tokens = f" over {told['tokens']:,} tokens" if told["tokens"] is not None else ""
        yield "steps", f"{told['steps']:,} of {told['batch_size']} rows each{tokens}; by {basis['tokens']}"
    if told["seconds"] is not None:
        yield "time", f"{span(told['seconds'])}; {basis['seconds']}"
    for worker in told["workers"]:
        size = _size(worker["memory_bytes"]) if worker["memory_bytes"] is not None else "memory unknown"
        verdict = {True: "fits", False: "does not fit", None: "not known"}[worker["fits"]]
        yield "worker", f"{worker['name']}: {worker['device'] or 'unknown device'}, {size}: {verdict}"
    for remedy in told["would_fit"]:
        change = ", ".join(f"{name}={value}" for name, value in remedy["change"].items())
        yield "instead", f"{change}: {_size(remedy['memory'])}"


def _read(name: str) -> dict[str, Any]:
    try:
        content = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        body = json.loads(content)
    except OSError as exc:
        raise InvalidInput(f"{name} cannot be read: {exc.strerror}", param="FILE") from exc
    except ValueError as exc:
        raise InvalidInput(f"{name} is no JSON: {exc}", param="FILE") from exc
    if not isinstance(body, dict):
        raise InvalidInput(f"{name} must hold one JSON object, as /v1/training/jobs takes it", param="FILE")
    return body


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
