"""`heliu evals run`: from words on the command line to a run of an eval."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.client import Client, connect, path_of
from services.cli.evals import EvalId, read, show_run
from services.cli.lifecycle import Json
from services.cli.output import err
from services.cli.stored import labels_of
from services.cli.watch import finish
from shared.errors import InvalidInput

STORED = "stored"


def run(
    eval_id: EvalId,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='JSONL of {"item": ...}, a file id, a version (dsv-... or NAME@TAG), or `stored` for stored chats.',
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="What answers; without one the items, or stored chats, hold the answers."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="The user message, as {{item.question}}.")] = None,
    messages: Annotated[
        str | None, typer.Option(help="A field with the messages instead: item.messages.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message before the prompt.")] = None,
    split: Annotated[str, typer.Option(help="Of a version: train, validation or all.")] = "validation",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Of a version its first rows, of stored chats the newest.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of stored chats, a label of theirs.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    source: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The whole data_source, YAML or JSON, instead of all this."),
    ] = None,
    name: Annotated[str | None, typer.Option()] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the end.")] = True,
    as_json: Json = False,
) -> None:
    """Measure a model, or answers that are given, by an eval."""
    with closing(connect()) as client:
        if source is not None:
            asked = read(source)
        else:
            asked = {"type": "jsonl", "source": _items(client, data, split, limit, labels_of(metadata))}
            if model is not None:
                asked |= {"type": "completions", "model": model}
                if data != STORED or prompt is not None or messages is not None:
                    asked["input_messages"] = _asking(prompt, messages, system)
            settings = {"temperature": temperature, "max_completion_tokens": max_tokens}
            given = {key: value for key, value in settings.items() if value is not None}
            if given and model is not None:
                asked["sampling_params"] = given
        body = {"data_source": asked, **({"name": name} if name is not None else {})}
        made = client.post(path_of("evals", eval_id, "runs"), body)
        if not wait:
            err.print(f"accepted; `heliu evals show {eval_id} {made['id']}` looks at it")
            show_run(made, as_json=as_json)
            return
        finish(client, made["id"])
        show_run(client.get(path_of("evals", eval_id, "runs", made["id"])), as_json=as_json)


def _items(
    client: Client, data: str | None, split: str, limit: int | None, labels: dict[str, str]
) -> dict[str, Any]:
    if data is None:
        raise InvalidInput("give the items: --data FILE, or a whole --source FILE", param="--data")
    if data == STORED:
        wanted: dict[str, Any] = {"type": "stored_completions", "metadata": labels or None, "limit": limit}
        return {name: value for name, value in wanted.items() if value is not None}
    if data.startswith("dsv-") or ("@" in data and not Path(data).exists()):
        named: dict[str, Any] = {"type": "dataset_version", "id": data, "split": split}
        return named | ({"limit": limit} if limit is not None else {})
    if data.startswith("file-"):
        return {"type": "file_id", "id": data}
    if not Path(data).is_file():
        raise InvalidInput(
            f"{data} is no file, no file id (file-...) and no version (dsv-... or NAME@TAG)", param="--data"
        )
    return {"type": "file_id", "id": client.upload(Path(data), "evals")["id"]}


def _asking(prompt: str | None, messages: str | None, system: str | None) -> dict[str, Any]:
    if (prompt is None) == (messages is None):
        raise InvalidInput("give --prompt or --messages, one of them", param="--prompt")
    if messages is not None:
        return {"type": "item_reference", "item_reference": messages}
    before = [{"role": "system", "content": system}] if system is not None else []
    return {"type": "template", "template": [*before, {"role": "user", "content": prompt}]}
