"""`heliu alerts`: what the platform has noticed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from services.cli.client import connect
from services.cli.lifecycle import Json
from services.cli.output import err, out, print_json
from services.cli.waterfall import plain

app = typer.Typer(help="Show alerts.", no_args_is_help=True)

COLOURS = {"critical": "bold red", "warning": "yellow"}


@app.command("list")
def list_alerts(
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: Json = False,
) -> None:
    """Alerts that stand, newest first."""
    client = connect(operator=True)
    try:
        page = client.get("/v1/alerts", open=None if everything else "true", limit=limit)
    finally:
        client.close()
    if as_json:
        print_json(page)
        return
    if not page["data"]:
        err.print("no alerts" if everything else "no alerts stand")
    for alert in page["data"]:
        for row in drawing(alert):
            out.print(row)


def drawing(alert: dict[str, Any]) -> list[Text]:
    """One line for the alert and, where there are examples, one that tells how to look at them."""
    resolved = alert["resolved_at"] is not None
    row = Text(_time(alert["started_at"]))
    row.append(f"  {alert['severity']:<8}", "dim" if resolved else COLOURS.get(alert["severity"], ""))
    row.append(f"  {alert['rule']}: {plain(alert['message'])}")
    if resolved:
        row.append(f"  (resolved {_time(alert['resolved_at'])})", "dim")
    if not alert["trace_ids"]:
        return [row]
    return [row, Text(f"    heliu traces show {plain(alert['trace_ids'][0])}", "dim")]


def _time(unix: int) -> str:
    return datetime.fromtimestamp(unix).astimezone().strftime("%m-%d %H:%M:%S")
