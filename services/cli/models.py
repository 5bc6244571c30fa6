"""`heliu models` and `heliu workers`: what can be asked, and who answers."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, moment, show, show_one

app = typer.Typer(help="List, show and delete models.", no_args_is_help=True)
workers = typer.Typer(help="Show workers.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(metavar="MODEL")]


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """All models, newest first."""
    columns = [
        field("id"),
        field("kind"),
        ("base", lambda row: row["base"] or ""),
        ("created", lambda row: moment(row["created"])),
        ("job", lambda row: row["job_id"] or ""),
    ]
    with closing(connect()) as client:
        show(client.get("/v1/models"), columns, as_json=as_json, nothing="no models")


@app.command("show")
def show_model(model: Model, as_json: Json = False) -> None:
    """One model: what it was made of and by which job."""
    with closing(connect()) as client:
        show_one(client.get(path_of("models", model)), as_json=as_json)


@app.command()
def delete(model: Model, as_json: Json = False) -> None:
    """Take a model's name away at once."""
    with closing(connect()) as client:
        show_one(client.delete(path_of("models", model)), as_json=as_json)


@workers.command("list")
def list_workers(as_json: Json = False) -> None:
    """Workers that live or have lived within the hour."""
    columns = [
        field("name"),
        field("service"),
        field("pool"),
        field("state"),
        ("busy", lambda row: f"{row['busy']}/{row['slots']}"),
        ("heard", lambda row: moment(row["heartbeat_at"])),
        ("queues", lambda row: ", ".join(row["queues"])),
    ]
    with closing(connect(operator=True)) as client:
        show(
            client.get("/v1/workers"), columns, as_json=as_json, nothing="no workers; `heliu up` starts some"
        )
