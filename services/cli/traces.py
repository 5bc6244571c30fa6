"""`heliu traces`: the spans of one request or job as a tree, and the traces that are kept."""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from services.cli import waterfall
from services.cli.client import Client, connect, path_of
from services.cli.lifecycle import Json
from services.cli.output import err, out, print_json
from shared.errors import HeliuError

app = typer.Typer(help="Show what happened inside a request or job.", no_args_is_help=True)

NAME_WIDTH = 64
POLL_S = 0.5


@app.command()
def show(
    trace_id: Annotated[str, typer.Argument(metavar="ID", help="The trace id, as every answer carries it.")],
    as_json: Json = False,
    wait: Annotated[
        float, typer.Option(min=0, max=600, help="Seconds to wait for a trace that is on its way.")
    ] = 3.0,
) -> None:
    """Draw one trace: names, services, times, attempt and queue wait."""
    client = connect(operator=True)
    try:
        trace = fetch(client, trace_id.strip().lower(), wait)
    finally:
        client.close()
    if as_json:
        print_json(trace)
        return
    for row in drawing(trace["spans"], ascii_only=not _unicode()):
        out.print(row)
    jaeger = os.environ.get("HELIU_JAEGER_URL", "").rstrip("/")
    link = f"{jaeger}/trace/{trace['id']}" if jaeger else trace.get("jaeger")
    if link:
        err.print(f"in Jaeger: {link}")


@app.command("list")
def list_traces(
    name: Annotated[str | None, typer.Option(help="Only traces whose root span has this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: Json = False,
) -> None:
    """The newest traces that are kept here."""
    client = connect(operator=True)
    try:
        page = client.get("/v1/traces", name=name, limit=limit)
    finally:
        client.close()
    if as_json:
        print_json(page)
        return
    if not page["data"]:
        err.print("no traces are kept here")
    for one in page["data"]:
        started = datetime.fromtimestamp(one["start_ns"] / 1e9).astimezone().strftime("%m-%d %H:%M:%S")
        row = Text(f"{one['id']}  {started}  ")
        row.append(f"{waterfall.duration(one['duration_ms']):>9}  {one['spans']:>4} spans  ")
        row.append(
            waterfall.plain(f"{one['service']}: {one['name']}"), "red" if one["status"] == "error" else ""
        )
        out.print(row)


def fetch(client: Client, trace_id: str, wait_s: float) -> dict[str, Any]:
    """The trace, waited for while it is on its way. Raises HeliuError `not_found`."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return client.get(path_of("traces", trace_id))
        except HeliuError as exc:
            if exc.code != "not_found" or time.monotonic() >= deadline:
                raise
        time.sleep(POLL_S)


def drawing(spans: list[dict[str, Any]], *, ascii_only: bool = False) -> list[Text]:
    """One coloured line a span, below a line about the whole."""
    lines = waterfall.lines(spans, ascii_only=ascii_only)
    services = sorted({line.service for line in lines})
    whole = max((line.offset_ms + line.duration_ms for line in lines), default=0.0)
    head = (
        f"{len(lines)} spans, {len(services)} services ({', '.join(services)}), {waterfall.duration(whole)}"
    )
    width = min(NAME_WIDTH, max((cell_len(line.branch + line.name) for line in lines), default=0))
    column = max((cell_len(service) for service in services), default=0)
    return [Text(head, "bold"), *(_row(line, width, column) for line in lines)]


def _row(line: waterfall.Line, width: int, column: int) -> Text:
    colour = "red" if line.failed else ""
    row = Text(line.branch, "dim")
    row.append(set_cell_size(line.name, max(1, width - cell_len(line.branch))), colour)
    row.append(f"  {set_cell_size(line.service, column)}", "cyan")
    row.append(f"  {waterfall.duration(line.duration_ms):>9}  ")
    row.append(line.bar, colour or "green")
    row.append(f"  +{waterfall.duration(line.offset_ms)}", "dim")
    if line.note:
        row.append(f"  {line.note}", colour or "yellow")
    return row


def _unicode() -> bool:
    return out.encoding.lower().startswith("utf")
