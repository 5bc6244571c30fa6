"""`heliu stored`: chats that were kept with `store`, and files for training that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Annotated, Any

import typer

from services.cli import watch
from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import Column, field, moment, show, show_one, text
from services.cli.output import out, print_json
from shared.errors import InvalidInput

app = typer.Typer(help="Chats that were stored: read, label, delete, train on them.", no_args_is_help=True)

ChatId = Annotated[str, typer.Argument(metavar="ID")]
Model = Annotated[str | None, typer.Option(help="A model, task:NAME or registry:NAME that answered.")]
Labels = Annotated[
    list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="A label; may be given again.")
]
After = Annotated[int | None, typer.Option(min=0, help="Unix seconds, inclusive.")]
Before = Annotated[int | None, typer.Option(min=0, help="Unix seconds, inclusive.")]


@app.command("list")
def list_chats(
    model: Model = None,
    metadata: Labels = None,
    created_after: After = None,
    created_before: Before = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: Json = False,
) -> None:
    """The newest ones."""
    labels = {f"metadata[{name}]": value for name, value in labels_of(metadata).items()}
    query = {"model": model, "created_after": created_after, "created_before": created_before, **labels}
    columns: list[Column] = [
        field("id"),
        ("created", lambda row: moment(row["created"])),
        field("model"),
        ("labels", lambda row: ", ".join(f"{k}={v}" for k, v in row["metadata"].items())),
        ("answer", lambda row: row["choices"][0]["message"]["content"]),
    ]
    with closing(connect()) as client:
        page = client.get("/v1/chat/completions", limit=limit, order="desc", **query)
    show(page, columns, as_json=as_json, nothing="no stored chats")


@app.command("show")
def show_chat(chat_id: ChatId, as_json: Json = False) -> None:
    """A chat: its messages, and the answer."""
    path = path_of("chat", "completions", chat_id)
    with closing(connect()) as client:
        chat, after = client.get(path), None
        messages: list[dict[str, Any]] = []
        while True:
            page = client.get(f"{path}/messages", limit=100, after=after)
            messages += page["data"]
            if not page["has_more"]:
                break
            after = page["last_id"]
    if as_json:
        print_json({**chat, "messages": messages})
        return
    named = ("id", "model", "created", "metadata", "temperature", "seed")
    show_one({name: chat.get(name) for name in named}, as_json=False)
    for one in [*messages, *(choice["message"] for choice in chat["choices"])]:
        out.print(f"{one['role']}: {text(one['content'])}")


@app.command("label")
def label_chat(
    chat_id: ChatId,
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Instead of those it has.")],
    as_json: Json = False,
) -> None:
    """Give a chat other labels."""
    with closing(connect()) as client:
        made = client.post(path_of("chat", "completions", chat_id), {"metadata": labels_of(labels)})
    show_one({name: made[name] for name in ("id", "metadata")}, as_json=as_json)


@app.command()
def delete(chat_id: ChatId, as_json: Json = False) -> None:
    """Delete a chat; files that were made of it keep its texts."""
    with closing(connect()) as client:
        show_one(client.delete(path_of("chat", "completions", chat_id)), as_json=as_json)


@app.command()
def export(
    model: Model = None,
    metadata: Labels = None,
    created_after: After = None,
    created_before: Before = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The newest so many.")] = None,
    filename: Annotated[str | None, typer.Option(help="What the file is called.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the file.")] = True,
    as_json: Json = False,
) -> None:
    """Make a file for fine-tuning of the answers: `heliu train tune` takes its id, and so does `heliu files get`."""
    asked = {
        "model": model,
        "metadata": labels_of(metadata) or None,
        "created_after": created_after,
        "created_before": created_before,
        "limit": limit,
        "filename": filename,
    }
    body = {name: value for name, value in asked.items() if value is not None}
    with closing(connect()) as client:
        job = client.post("/v1/files/stored_completions", body)
        watch.answer(client, job, wait=wait, as_json=as_json)


def labels_of(given: Sequence[str] | None) -> dict[str, str]:
    """KEY=VALUE texts as labels. Raises InvalidInput."""
    labels: dict[str, str] = {}
    for one in given or ():
        name, sign, value = one.partition("=")
        if not sign or not name:
            raise InvalidInput(f"{one[:80]!r} is no label; write KEY=VALUE", param="--metadata")
        labels[name] = value
    return labels
