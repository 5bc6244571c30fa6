"""`heliu train watch|curves|tensorboard`: a run's curves live in the terminal, as numbers, and as an event file."""

from __future__ import annotations

import io
import json
import sys
import time
import zipfile
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from services.cli import watch as waiting
from services.cli.client import ENDED, Client, connect, path_of
from services.cli.lifecycle import Json
from services.cli.output import err, print_json
from services.cli.plots import Look, picture
from shared.errors import InvalidInput

JobId = Annotated[str, typer.Argument(metavar="JOB", help="A training or fine-tuning job.")]
POLL_S = 1.0
POINTS = 400
# Messages under the plots.
SHOWN = 4
PAGE = 100


def watch(
    job_id: JobId,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as it is told.")] = False,
) -> None:
    """Draw a run's curves until it ends; Ctrl-C leaves it running. Of one that has ended, draw them once."""
    with closing(connect()) as client:
        if as_json:
            _stream(client, job_id)
            return
        console = Console(highlight=False)
        if console.is_terminal and client.get(path_of("jobs", job_id))["status"] not in ENDED:
            _draw(client, job_id, console)
        else:
            if client.get(path_of("training", "jobs", job_id))["status"] not in ENDED:
                waiting.ended(client, job_id)
            console.print(picture(_look(client, job_id), console.width, color=console.is_terminal))
        waiting.finish(client, job_id)


def _draw(client: Client, job_id: str, console: Console) -> None:
    try:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            while True:
                look = _look(client, job_id)
                live.update(picture(look, console.width, color=True), refresh=True)
                if look.job["status"] in ENDED:
                    return
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        err.print(f"{job_id} goes on; `heliu train watch {job_id}` looks at it, `heliu jobs cancel` ends it")
        raise


def _look(client: Client, job_id: str) -> Look:
    # The job first: whatever it had told by then is in what is read next.
    job = client.get(path_of("training", "jobs", job_id))
    told = client.get(path_of("training", "jobs", job_id, "curves"), points=POINTS)
    latest = client.get(path_of("jobs", job_id, "events"), order="desc", limit=PAGE)
    messages: deque[dict[str, Any]] = deque(maxlen=SHOWN)
    messages.extend(event for event in reversed(latest["data"]) if event["type"] != "metrics")
    return Look(
        job, {curve["metric"]: curve["points"] for curve in told["data"]}, list(messages), time.time()
    )


def _stream(client: Client, job_id: str) -> None:
    """Every event as a line as it comes, and the ended job as the last one."""
    last: str | None = None
    while True:
        job = client.get(path_of("training", "jobs", job_id))
        while True:
            page = client.get(path_of("jobs", job_id, "events"), after=last, limit=PAGE)
            for event in page["data"]:
                last = str(event["id"])
                sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
            sys.stdout.flush()
            if not page["has_more"]:
                break
        if job["status"] in ENDED:
            sys.stdout.write(json.dumps(job, ensure_ascii=False) + "\n")
            waiting.finish(client, job_id)
            return
        time.sleep(POLL_S)


def curves(
    job_id: JobId,
    metrics: Annotated[str | None, typer.Option(help="Names, with commas between; all by default.")] = None,
    points: Annotated[int, typer.Option(min=4, max=10_000, help="Most points of a metric.")] = POINTS,
    after_step: Annotated[int | None, typer.Option(min=0, help="Only steps behind this one.")] = None,
    as_json: Json = False,
) -> None:
    """Draw a run's curves as they are now, or print them with --json."""
    with closing(connect()) as client:
        asked = {"metrics": metrics, "points": points, "after_step": after_step}
        told = client.get(path_of("training", "jobs", job_id, "curves"), **asked)
        if as_json:
            print_json(told)
            return
        job = client.get(path_of("training", "jobs", job_id))
        console = Console(highlight=False)
        look = Look(job, {c["metric"]: c["points"] for c in told["data"]}, (), time.time())
        console.print(picture(look, console.width, color=console.is_terminal))


def tensorboard(
    job_id: JobId,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Where its folder is made; `tensorboard --logdir DIR`."),
    ] = Path("runs"),
) -> None:
    """Fetch a run's event file for TensorBoard; runs in one DIR are compared with each other."""
    with closing(connect()) as client:
        content = b"".join(client.download(path_of("training", "jobs", job_id, "tensorboard")))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            target = out / name
            if not target.resolve().is_relative_to(out.resolve()):
                raise InvalidInput(f"the gateway sent a file outside of its folder: {name!r}", param="JOB")
        archive.extractall(out)
        names = archive.namelist()
    for name in names:
        sys.stdout.write(f"{out / name}\n")
