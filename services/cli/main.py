"""The `heliu` command: gathers the verbs of the other modules and turns errors into exit codes."""

from __future__ import annotations

import sys

import typer

from services.cli import alerts, demo, lifecycle, traces
from services.cli.output import report
from shared.errors import HeliuError

app = typer.Typer(
    help="Govern data, adapt models, serve and watch them, on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(lifecycle.app)
app.add_typer(demo.app)
app.add_typer(traces.app, name="traces")
app.add_typer(alerts.app, name="alerts")


def main() -> None:
    try:
        app()
    except HeliuError as exc:
        sys.exit(report(exc))


if __name__ == "__main__":
    main()
