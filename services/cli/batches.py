"""`heliu batch`: a file of requests, answered in the background."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from services.cli.client import Client, connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, show, show_one, when
from services.cli.output import err
from shared.contracts.answers import CHAT
from shared.contracts.inference import Endpoint
from shared.errors import HeliuError, InvalidInput

app = typer.Typer(help="Run batches of requests.", no_args_is_help=True)

BatchId = Annotated[str, typer.Argument(metavar="ID")]
POLL_S = 1.0
LONGEST_LINE = 1024 * 1024
OPEN = ("validating", "in_progress", "finalizing", "cancelling")


@app.command()
def run(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL in the format of OpenAI's batches.")],
    wait: Annotated[bool, typer.Option(help="Wait for the end.")] = True,
    as_json: Json = False,
) -> None:
    """Upload requests and answer them all."""
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file", param="FILE")
    endpoint = _endpoint(path)
    with closing(connect()) as client:
        file = client.upload(path, "batch")
        body = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h"}
        batch = client.post("/v1/batches", body)
        show_one(_finish(client, batch) if wait else batch, as_json=as_json)


def _endpoint(path: Path) -> str:
    """Where the first line wants to go; the platform says what is wrong with a line that wants to go nowhere."""
    with path.open("rb") as source:
        try:
            first = json.loads(source.readline(LONGEST_LINE))
        except ValueError:
            return CHAT
    url = first.get("url") if isinstance(first, dict) else None
    return str(url) if url in get_args(Endpoint) else CHAT


def _finish(client: Client, batch: dict[str, Any]) -> dict[str, Any]:
    told = ""
    while batch["status"] in OPEN:
        counts = batch["request_counts"]
        line = f"{batch['status']}: {counts['completed'] + counts['failed']} of {counts['total']}"
        if line != told:
            err.print(f"{batch['id']}  {line}")
            told = line
        time.sleep(POLL_S)
        batch = client.get(f"/v1/batches/{batch['id']}")
    if batch["status"] == "failed":
        first = ((batch["errors"] or {}).get("data") or [{}])[0]
        raise HeliuError(
            f"batch {batch['id']} failed: {first.get('message', 'no reason was given')} (trace {batch['trace_id']})",
            code=str(first.get("code", "batch_failed")),
        )
    return batch


@app.command("list")
def list_batches(limit: Annotated[int, typer.Option(min=1, max=100)] = 20, as_json: Json = False) -> None:
    """The newest batches."""
    columns = [
        field("id"),
        field("status"),
        when("created_at"),
        ("rows", lambda row: "{completed}+{failed}/{total}".format(**row["request_counts"])),
        ("output", lambda row: row["output_file_id"] or ""),
    ]
    with closing(connect()) as client:
        show(client.get("/v1/batches", limit=limit), columns, as_json=as_json, nothing="no batches")


@app.command("show")
def show_batch(batch_id: BatchId, as_json: Json = False) -> None:
    """One batch."""
    with closing(connect()) as client:
        show_one(client.get(path_of("batches", batch_id)), as_json=as_json)


@app.command()
def cancel(batch_id: BatchId, as_json: Json = False) -> None:
    """End a batch; what is answered already is kept."""
    with closing(connect()) as client:
        show_one(client.post(path_of("batches", batch_id, "cancel")), as_json=as_json)


@app.command()
def output(
    batch_id: BatchId,
    errors: Annotated[bool, typer.Option("--errors", help="The rows that failed instead.")] = False,
) -> None:
    """The answers of a batch, as JSONL on stdout."""
    with closing(connect()) as client:
        batch = client.get(path_of("batches", batch_id))
        file_id = batch["error_file_id" if errors else "output_file_id"]
        if file_id is None:
            raise HeliuError(
                f"batch {batch_id} is {batch['status']} and has no {'error' if errors else 'output'} file",
                code="not_found",
            )
        for chunk in client.download(f"/v1/files/{file_id}/content"):
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
