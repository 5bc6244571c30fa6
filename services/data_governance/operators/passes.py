"""How a row-wise operator goes over rows: a function that rewrites each text, or one that finds fault with a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.data_governance.rows import Changed, Dropped, Outcome, Row

# The rule that a row breaks, and why in words that quote no row content; None where it breaks none.
Fault = tuple[str, str] | None


def rewritten(rows: Sequence[Row], rewrite: Callable[[str, dict[str, int]], str]) -> Outcome:
    """All rows kept, with `rewrite(text, counts)` for each text; it adds the rules that it applied to `counts`."""
    outcome = Outcome()
    for row in rows:
        counts: dict[str, int] = {}
        said = [rewrite(text, counts) for text in row.said()]
        after = row.with_said(said) if counts else row
        outcome.kept.append(after)
        if counts:
            outcome.changed.append(Changed(row, after, counts))
    return outcome


def judged(rows: Sequence[Row], fault: Callable[[Row], Fault]) -> Outcome:
    """Rows without a fault kept, the others dropped."""
    outcome = Outcome()
    for row in rows:
        found = fault(row)
        if found is None:
            outcome.kept.append(row)
        else:
            outcome.dropped.append(Dropped(row, *found))
    return outcome
