"""`python -m tests.chaos --seconds N --seed S`: a fault run of any length; exits 1 when a promise was broken."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from tests.chaos.run import ChaosRun


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="how long faults come")
    parser.add_argument(
        "--seed", type=int, default=None, help="the seed of an earlier run, to draw its faults again"
    )
    parser.add_argument("--logs", type=Path, default=None, help="folder to copy the logs of all processes to")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    run = ChaosRun(seed, say=lambda line: print(line, flush=True), keep=options.logs)
    return 0 if run.run(options.seconds).held else 1


if __name__ == "__main__":
    sys.exit(main())
