"""How the demo shows itself: a line a step while it runs, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.cli.output import err, out


class Outcome(Protocol):
    """What the table is made of."""

    rows_in: int
    rows_kept: int
    dropped: dict[str, int]
    base_score: float
    tuned_score: float
    base_exact_match: float
    tuned_exact_match: float
    base_loss: float
    tuned_loss: float
    evaluated: int
    batch: dict[str, float]
    chat_question: str
    chat_text: str
    tuned_model: str
    trace_id: str
    spans: int
    services: list[str]
    seconds: float


class Steps:
    """Shows the step that runs, with a note that changes, and keeps how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[Callable[[str], None]]:
        """Yields a function that shows a note behind the title."""
        began = time.monotonic()
        last = ""
        if not err.is_terminal:
            err.print(f"{title} ...")
        live = Live(
            console=err, transient=True, auto_refresh=True, get_renderable=lambda: _line(title, last, began)
        )

        def note(text: str) -> None:
            nonlocal last
            last = text

        if err.is_terminal and name != "start":  # the start shows a table of its own
            live.start()
        try:
            yield note
        finally:
            live.stop()
            self.seconds[name] = round(time.monotonic() - began, 1)
        err.print(f"✓ {title} ({self.seconds[name]} s){': ' + last if last else ''}", style="green")


def _line(title: str, note: str, began: float) -> Text:
    return Text(f"… {title} {time.monotonic() - began:.0f} s  {note}")


def show(result: Outcome, *, still_up: bool) -> None:
    """The closing table."""
    table = Table(title="Heliu demo", show_header=False, title_style="bold")
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    dropped = ", ".join(f"{rule} {count}" for rule, count in sorted(result.dropped.items(), key=_by_count))
    rows: list[tuple[str, str]] = [
        ("rows in", f"{result.rows_in:,}"),
        ("rows kept", f"{result.rows_kept:,}"),
        ("dropped by rule", dropped or "none"),
        (f"{result.evaluated} held-out answers", "base → tuned"),
        ("  token F1", f"{result.base_score:.3f} → {result.tuned_score:.3f}"),
        ("  exact match", f"{result.base_exact_match:.3f} → {result.tuned_exact_match:.3f}"),
        ("  loss", f"{result.base_loss:.3f} → {result.tuned_loss:.3f}"),
        (
            "batch",
            f"{result.batch['completed']:.0f} of {result.batch['total']:.0f} rows, "
            f"{result.batch['rows_per_second']} rows/s",
        ),
        ("question", result.chat_question),
        ("answer", result.chat_text),
        ("model", result.tuned_model),
        ("trace", f"{result.trace_id} ({result.spans} spans of {', '.join(result.services)})"),
        ("seconds", f"{result.seconds:.0f}"),
    ]
    for row in rows:
        table.add_row(*row)
    out.print(table)
    start = "" if still_up else "heliu up; "
    out.print(f"Look at the trace:  {start}heliu traces show {result.trace_id}")


def _by_count(item: tuple[str, Any]) -> Any:
    return -item[1]
