"""`heliu jobs`: any durable work: its state, its events, cancel, pause, resume, replay."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from typing import Annotated, Any

import typer

from services.cli.chat import show_chunk
from services.cli.client import ENDED, Client, connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, moment, show, show_one, text, when
from services.cli.output import out
from shared.errors import HeliuError, InvalidInput

app = typer.Typer(help="Look at jobs and steer them.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="ID")]
POLL_S = 0.5
PAGE = 100


@app.command("list")
def list_jobs(
    kind: Annotated[str | None, typer.Option(help="Such as training.fine_tune.")] = None,
    status: Annotated[str | None, typer.Option(help="Such as queued, leased, dead.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: Json = False,
) -> None:
    """The newest jobs."""
    columns = [
        field("id"),
        field("kind"),
        field("status"),
        when("created_at"),
        ("error", lambda row: (row["error"] or {}).get("message", "")),
    ]
    with closing(connect()) as client:
        page = client.get("/v1/jobs", kind=kind, status=status, limit=limit)
    show(page, columns, as_json=as_json, nothing="no jobs")


@app.command("show")
def show_job(job_id: JobId, as_json: Json = False) -> None:
    """One job: state, place in the line, progress, result, trace."""
    with closing(connect()) as client:
        show_one(client.get(path_of("jobs", job_id)), as_json=as_json)


@app.command()
def events(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """What happened to a job, oldest first."""
    with closing(connect()) as client:
        last: str | None = None
        while True:
            # Asked before the events are read, so that none of the last ones is missed.
            ended = follow and client.get(path_of("jobs", job_id))["status"] in ENDED
            last = _print_after(client, job_id, last, as_json)
            if not follow or ended:
                return
            time.sleep(POLL_S)


def _print_after(client: Client, job_id: str, last: str | None, as_json: bool) -> str | None:
    while True:
        page = client.get(path_of("jobs", job_id, "events"), after=last, limit=PAGE)
        for event in page["data"]:
            last = str(event["id"])
            if as_json:
                sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
            else:
                out.print(f"{moment(event['created_at'])}  {event['level']:<5}  {text(event['message'])}")
        sys.stdout.flush()
        if not page["has_more"]:
            return last


@app.command()
def answer(job_id: JobId) -> None:
    """What a chat in the background says: from its beginning, and on until it ends."""
    with closing(connect()) as client:
        if client.get(path_of("jobs", job_id))["kind"] != "inference.chat":
            raise InvalidInput(
                f"{job_id} is no chat; `heliu jobs show {job_id}` shows what it is", param="ID"
            )
        path = path_of("chat", "completions", job_id)
        try:
            for chunk in client.follow(path):
                show_chunk(chunk)
        except HeliuError as exc:
            if exc.code != "not_found":
                raise
            for chunk in client.follow(path_of("completions", job_id)):
                show_chunk(chunk)
    sys.stdout.write("\n")


@app.command()
def cancel(job_id: JobId, as_json: Json = False) -> None:
    """End a job: at once where it waits, at its next step where it runs."""
    _ask(job_id, "cancel", as_json)


@app.command()
def pause(job_id: JobId, as_json: Json = False) -> None:
    """Stop a job at its next checkpoint."""
    _ask(job_id, "pause", as_json)


@app.command()
def resume(job_id: JobId, as_json: Json = False) -> None:
    """Let a paused job go on."""
    _ask(job_id, "resume", as_json)


@app.command()
def replay(job_id: JobId, as_json: Json = False) -> None:
    """Queue a dead job again."""
    _ask(job_id, "replay", as_json)


def _ask(job_id: str, verb: str, as_json: bool) -> None:
    with closing(connect()) as client:
        answer: dict[str, Any] = client.post(path_of("jobs", job_id, verb))
    show_one(answer, as_json=as_json)
