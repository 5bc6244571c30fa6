"""The operator's verbs for this machine: up, down, status, doctor, scale, logs. Drives deploy.local, no HTTP."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deploy import doctor as examination
from deploy import local
from deploy.local import ProcessStatus, Status
from services.cli.output import err, out, print_json
from shared.errors import InvalidInput

app = typer.Typer()

COLOURS = {"ready": "green", "done": "green", "waiting": "dim", "starting": "yellow", "stopping": "yellow"}
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


FOLDER = ".heliu"


def home() -> Path:
    """HELIU_HOME, or the .heliu of this folder or of the nearest one above it; a new one would be made here.

    One that belongs to somebody else is not ours, and the one of the user's own folder is not that of everything
    below it.
    """
    if asked := os.environ.get("HELIU_HOME"):
        return Path(asked).resolve()
    here = Path.cwd()
    for folder in (here, *(above for above in here.parents if above != Path.home())):
        found = folder / FOLDER
        if found.is_dir() and found.stat().st_uid == os.geteuid():
            return found.resolve()
    return here.resolve() / FOLDER


class Display:
    """Shows every process while it changes: a live table on a terminal, a line per change elsewhere."""

    def __init__(self) -> None:
        self._live = Live(console=err, transient=True, auto_refresh=False) if err.is_terminal else None
        self._seen: dict[str, str] = {}

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, status: Status) -> None:
        """Take note of where every process is now."""
        if self._live:
            self._live.update(_table(status), refresh=True)
            return
        for process in status.processes:
            if self._seen.get(process.name) != process.state:
                self._seen[process.name] = process.state
                err.print(f"{process.name:<20} {process.state}")


@app.command()
def up(
    only: Annotated[
        str, typer.Option(help="Only these services, e.g. gateway,dispatcher, and their needs.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Start the platform on this machine and wait until it is ready."""
    began = time.monotonic()
    names = [name.strip() for name in only.split(",") if name.strip()] or None
    with Display() as display:
        status = local.up(home(), only=names, on_progress=display.show)
    if as_json:
        print_json(status.as_json())
        return
    out.print(f"Heliu is up ({time.monotonic() - began:.1f} s).", style="bold green")
    if any(process.service == "gateway" for process in status.processes):
        out.print(f"  gateway   {status.gateway}")
        out.print(f"  API docs  {status.gateway}/docs")
        out.print(f"  API key   in {status.home}/keys/default.json (operator's: keys/operator.json)")
    for about in status.servers.values():
        if "note" in about:
            err.print(f"note: {about['note']}: {about['folder']}", style="yellow")


@app.command()
def down() -> None:
    """Stop everything in order; data stays. Fine when nothing runs."""
    was_running = local.is_running(home())
    with Display() as display:
        local.down(home(), on_progress=display.show)
    out.print(f"Heliu is down; its data stays in {home()}." if was_running else "Nothing was running.")


@app.command()
def status(as_json: Json = False) -> None:
    """Show each process with its state."""
    now = local.status(home())
    if as_json:
        print_json(now.as_json())
    elif not now.running:
        out.print(f"Nothing runs in {now.home}. Start it with: heliu up")
    else:
        out.print(_table(now))
        out.print(f"gateway {now.gateway}    home {now.home}")
        for about in now.servers.values():
            if "note" in about:
                out.print(f"note: {about['note']}: {about['folder']}", style="yellow")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Find what is missing or wrong on this machine, with the mend. Exits 1 when something is."""
    checks = examination.examine(home(), os.environ)
    if as_json:
        print_json([{"name": c.name, "ok": c.ok, "detail": c.detail, "mend": c.mend} for c in checks])
    else:
        for check in checks:
            out.print(Text("ok   ", "green") if check.ok else Text("wrong", "bold red"), end=" ")
            out.print(f"{check.name}: {check.detail}")
            if not check.ok:
                out.print(f"      mend: {check.mend}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@app.command()
def scale(
    counts: Annotated[list[str], typer.Argument(metavar="SERVICE=N...", help="E.g. inference=2 training=0.")],
) -> None:
    """Have N processes of a service: new ones start at once, surplus ones finish their work first."""
    wanted = [_count(text) for text in counts]
    for service, count in wanted:
        local.scale(home(), service, count)
    with Display() as display:
        now = local.wait_scaled(home(), {service for service, _ in wanted}, on_progress=display.show)
    for service, _ in wanted:
        running = sum(process.service == service for process in now.processes)
        out.print(f"{service}: {running}")


@app.command()
def logs(
    service: Annotated[str, typer.Argument(help="A service (inference) or one process (inference.2).")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is appended.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines of the past, per process.")] = 100,
) -> None:
    """Print the log of a service."""
    try:
        for name, line in local.read_logs(home(), service, lines=lines, follow=follow):
            out.print(f"{name} | {line}")
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _count(text: str) -> tuple[str, int]:
    service, equals, number = text.partition("=")
    if not (service and equals and number.isdecimal()):
        raise InvalidInput(f"{text!r} is not SERVICE=N, e.g. inference=2", param="counts")
    return service, int(number)


def _table(status: Status) -> Table:
    table = Table("process", "state", "pid", "restarts", "since", "memory", box=None, header_style="bold")
    for process in status.processes:
        table.add_row(*_row(process))
    return table


def _row(process: ProcessStatus) -> tuple[Text | str, ...]:
    return (
        process.name,
        Text(process.state, COLOURS.get(process.state, "red")),
        str(process.pid or ""),
        str(process.restarts),
        process.since.astimezone().strftime("%H:%M:%S") if process.since.timestamp() else "",
        f"{process.memory_mb:.0f} MB" if process.memory_mb else "",
    )
