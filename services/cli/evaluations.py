"""`heliu train evaluate`: a model's score on held-out conversations."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from services.cli import watch
from services.cli.client import connect
from services.cli.lifecycle import Json


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="A dataset version, dsv-...")],
    limit: Annotated[int, typer.Option(min=1, help="Conversations at most.")] = 200,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    wait: Annotated[bool, typer.Option(help="Wait for the end.")] = True,
    as_json: Json = False,
) -> None:
    """Score a model on held-out conversations."""
    body = {"model": model, "dataset_version": data, "limit": limit, "seed": seed}
    with closing(connect()) as client:
        watch.answer(client, client.post("/v1/evaluations", body), wait=wait, as_json=as_json)
