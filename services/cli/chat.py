"""`heliu chat`: talk to a model, streamed."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated, Any

import httpx
import typer

from services.cli.client import Client, connect
from services.cli.output import err
from services.cli.stored import labels_of
from shared.errors import HeliuError

app = typer.Typer()


@app.command()
def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    message: Annotated[
        str | None, typer.Argument(help="Without one, a conversation on the terminal.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    background: Annotated[
        bool, typer.Option(help="Do not wait: print the job's id, for `heliu jobs answer`.")
    ] = False,
    priority: Annotated[
        int | None, typer.Option(min=-100, max=100, help="Of a chat in the background; above 0 goes first.")
    ] = None,
    store: Annotated[bool, typer.Option(help="Keep it: see `heliu stored`.")] = False,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label of it; may be given again.")
    ] = None,
) -> None:
    """Ask a model; the answer is on stdout as it is made."""
    if message is None and background:
        raise typer.BadParameter("a chat in the background needs its message", param_hint="MESSAGE")
    if priority is not None and not background:
        raise typer.BadParameter("only a chat in the background has one", param_hint="--priority")
    if metadata and not (store or background):
        raise typer.BadParameter(
            "only a chat with --store or --background has labels", param_hint="--metadata"
        )
    told = [{"role": "system", "content": system}] if system is not None else []
    options: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
    options |= {"store": store or None, "metadata": labels_of(metadata) or None}
    with closing(connect()) as client:
        if message is not None and background:
            asked = [*told, {"role": "user", "content": message}]
            body = {"model": model, "messages": asked, "background": True}
            job = client.post("/v1/chat/completions", {**body, **_given({**options, "priority": priority})})
            sys.stdout.write(f"{job['id']}\n")
            return
        if message is not None:
            _ask(client, model, [*told, {"role": "user", "content": message}], options, trace=False)
            return
        err.print(f"talking to {model}; an empty line or Ctrl-D ends")
        while said := _line():
            told.append({"role": "user", "content": said})
            try:
                answer = _ask(client, model, told, options, trace=True)
            except HeliuError as exc:
                err.print(exc.message, style="red")
                told.pop()
                continue
            told.append({"role": "assistant", "content": answer})


def _ask(
    client: Client,
    model: str,
    messages: list[dict[str, str]],
    options: dict[str, Any],
    *,
    trace: bool,
) -> str:
    said, traces = "", [""]

    def note(headers: httpx.Headers) -> None:
        traces[0] = headers.get("x-trace-id", "")

    body = {"model": model, "messages": messages, "stream": True, **_given(options)}
    for chunk in client.stream("/v1/chat/completions", body, on_headers=note):
        said += show_chunk(chunk)
    sys.stdout.write("\n")
    if trace:
        err.print(f"trace {traces[0]}", style="dim")
    return said


def show_chunk(chunk: dict[str, Any]) -> str:
    """Write what a chunk adds to its first choice; returns it."""
    first = next((choice for choice in chunk["choices"] if choice["index"] == 0), None)
    if first is None:
        return ""
    text = str(first["delta"].get("content") or "" if "delta" in first else first["text"])
    sys.stdout.write(text)
    sys.stdout.flush()
    return text


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _line() -> str:
    try:
        return err.input("> ").strip()
    except EOFError:
        return ""
