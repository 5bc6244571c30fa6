"""`python -m tests.bench`: the benchmarks, each against a peer in the same run, on private servers.

`--json FILE` writes the figures too, `--only NAME` runs some, `--quick` proves in a minute that all of them run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.bench import batch, dispatch, engine, events, goodput, live, pool, training
from tests.bench.figures import Figure, show, write
from tests.bench.place import Place, open_place

# In this order: what needs an idle machine comes before the platform is started.
BENCHMARKS: dict[str, Callable[[Place], list[Figure]]] = {
    "submit": dispatch.submit_to_claimed,
    "slot": pool.freed_slot,
    "dispatch": dispatch.dispatch_rate,
    "engine": engine.generation,
    "chat": live.chat_latency,
    "live": live.live_behind_batch,
    "events": events.events_a_core,
    "batch": batch.whole_platform,
    "memory": batch.memory,
    "goodput": goodput.worker_killed,
    "packing": training.packed,
    "training": training.platform,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--only",
        action="append",
        choices=BENCHMARKS,
        metavar="NAME",
        help="one or more of: " + ", ".join(BENCHMARKS),
    )
    parser.add_argument("--quick", action="store_true", help="few repeats: the figures mean nothing")
    options = parser.parse_args()
    console, progress = Console(width=None if sys.stdout.isatty() else 160), Console(stderr=True)
    started, load = time.monotonic(), os.getloadavg()[0]
    figures: list[Figure] = []
    try:
        with open_place(quick=options.quick) as place:
            for name, run in BENCHMARKS.items():
                if options.only and name not in options.only:
                    continue
                began = time.monotonic()
                figures += run(place)
                progress.print(f"{name}: {time.monotonic() - began:.0f} s")
    finally:
        # What was measured before one failed, or before somebody lost patience, is still worth a look.
        show(figures, console)
    seconds = time.monotonic() - started
    console.print(
        f"{seconds:.0f} s on {os.cpu_count()} cores; load {load:.1f} before, {os.getloadavg()[0]:.1f} after"
        + ("; quick: the figures mean nothing" if options.quick else "")
    )
    if options.json:
        write(figures, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
