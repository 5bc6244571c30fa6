"""How the CLI speaks: data on stdout, everything else on stderr, and one exit code for each kind of error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

from shared.errors import HeliuError

# A script may rely on these; 0 is success and 2 a wrong command line.
EXIT_CODES = {
    "configuration_error": 3,
    "unavailable": 4,
    "not_running": 4,
    "not_found": 5,
    "model_not_found": 5,
    "start_failed": 6,
}
FAILED = 1

out = Console(soft_wrap=True, highlight=False, markup=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def print_json(data: Any) -> None:
    """`data` as indented JSON on stdout, plain even on a terminal."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2) + "\n")


def report(error: HeliuError) -> int:
    """Print what was wrong to stderr; returns the exit code."""
    err.print("error:", style="bold red", end=" ")
    err.print(error.message)
    return EXIT_CODES.get(error.code, FAILED)
