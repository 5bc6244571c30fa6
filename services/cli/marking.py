"""`heliu marking`: whether and how generated answers are marked as such."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any

import typer

from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import show_one

app = typer.Typer(help="Mark generated answers as such.", no_args_is_help=True)

Task = Annotated[str | None, typer.Option(help="Of this task alone.")]


@app.command()
def show(as_json: Json = False) -> None:
    """How answers are marked."""
    with closing(connect()) as client:
        show_one(client.get("/v1/marking"), as_json=as_json)


@app.command("set")
def set_(
    mode: Annotated[str, typer.Argument(metavar="MODE", help="off, metadata or visible.")],
    task: Task = None,
    place: Annotated[str, typer.Option(help="Of the label: start or end.")] = "end",
    language: Annotated[str, typer.Option(help="Of the label: auto, zh or en.")] = "auto",
    producer: Annotated[str, typer.Option(help="Name or code of who makes the content.")] = "",
    propagator: Annotated[str, typer.Option(help="Name or code of who passes it on.")] = "",
    as_json: Json = False,
) -> None:
    """Mark the answers of all models and tasks, or of one task."""
    body: dict[str, Any] = {"mode": mode, "place": place, "language": language}
    body |= {"producer": producer, "propagator": propagator}
    path = path_of("tasks", task, "marking") if task else "/v1/marking"
    with closing(connect()) as client:
        show_one(client.request("PUT", path, json=body), as_json=as_json)


@app.command()
def unset(task: Annotated[str, typer.Argument(metavar="TASK")], as_json: Json = False) -> None:
    """Mark a task as its tenant's other answers."""
    with closing(connect()) as client:
        show_one(client.delete(path_of("tasks", task, "marking")), as_json=as_json)
