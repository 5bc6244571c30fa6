"""Prints how well personal data is found: precision and recall of each type over the set of the unit tests.

`python -m tests.bench.pii`; it needs no server.
"""

from __future__ import annotations

import sys

from tests.unit.data_governance.pii_cases import negatives, positives, scores


def main() -> None:
    found, empty = positives(), negatives()
    lines = [f"{len(found)} texts with personal data, {len(empty)} without", ""]
    lines.append(f"{'type':<12}{'right':>7}{'wrong':>7}{'missed':>8}{'precision':>11}{'recall':>9}")
    for kind, score in scores([*found, *empty]).items():
        lines.append(
            f"{kind:<12}{score.right:>7}{score.wrong:>7}{score.missed:>8}{score.precision:>11.4f}{score.recall:>9.4f}"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
