"""What the page of a report shows, from the report as it is stored: an older one may lack parts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

MOST_BARS = 30
MOST_EXAMPLES = 10

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bar:
    """A name with its rows (or places), and the share of the whole that they are."""

    name: str
    rows: int
    share: float


@dataclass(frozen=True, slots=True)
class Fall:
    """One station of the rows on their way: `kept` go on and `lost` do not, in rows and in shares of all that came."""

    name: str
    kept: int
    lost: int
    kept_share: float
    lost_share: float
    changed: int


@dataclass(frozen=True, slots=True)
class Rule:
    """What one rule dropped or changed, with samples as the report has them."""

    name: str
    rows: int
    share: float
    samples: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class View:
    """All of a page, in the order in which it is read."""

    version_id: str
    dataset: str
    created_at: datetime
    gate: Report
    rows_in: int
    rows_kept: int
    splits: dict[str, int]
    falls: list[Fall]
    dropped: list[Rule]
    changed: list[Rule]
    scripts: list[Bar]
    lengths: list[Bar]
    chars: Report
    labels: list[Bar]
    labels_unlisted: int
    balance: float | None
    unlabelled: int
    groups: dict[str, Any]
    pii_masked: list[Bar]
    pii_left: list[Bar]
    leaked: int | None
    drift: Report | None


def look_at(version: Mapping[str, Any]) -> View:
    """The view of a version's row."""
    report: Report = version["report"]
    read, kept = report.get("rows_in", 0), report.get("rows_kept", version["rows"])
    labels, pii = report.get("labels", {}), report.get("pii", {})
    label_bars = _bars(labels.get("counts", {}), kept)
    unlisted = sum(bar.rows for bar in label_bars[MOST_BARS:]) + labels.get("rows_beyond_listed", 0)
    return View(
        version_id=version["id"],
        dataset=version["dataset"],
        created_at=version["created_at"],
        gate={"reasons": [], "checks": [], **version["gate"], "passed": version["gate_passed"]},
        rows_in=read,
        rows_kept=kept,
        splits=report.get("splits", {}),
        falls=_falls(report, read, kept),
        dropped=_rules(report, "dropped", read),
        changed=_rules(report, "changed", read),
        scripts=_bars({name: share * kept for name, share in report.get("scripts", {}).items()}, kept),
        lengths=_lengths(report.get("lengths", {}), kept),
        chars=report.get("chars", {}),
        labels=label_bars[:MOST_BARS],
        labels_unlisted=unlisted,
        balance=labels.get("balance"),
        unlabelled=report.get("nulls", {}).get("label", 0),
        groups=report.get("groups", {}),
        pii_masked=_bars(pii.get("masked", {}), read),
        pii_left=_bars(pii.get("left", {}), kept),
        leaked=report.get("leakage", {}).get("questions_in_both_splits"),
        drift=version["drift"],
    )


def _bars(counts: Mapping[str, float], whole: int) -> list[Bar]:
    """Most first, then by name: jsonb keeps no order."""
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Bar(name, round(count), _share(count, whole)) for name, count in ranked]


def _lengths(counts: Mapping[str, int], whole: int) -> list[Bar]:
    """Buckets in ascending order; each ends before the double of where it begins."""
    bounds = sorted((int(bound), count) for bound, count in counts.items())
    return [Bar(bucket(bound), count, _share(count, whole)) for bound, count in bounds]


def bucket(lower: int | str) -> str:
    """The range of a bucket that begins at `lower` characters."""
    bound = int(lower)
    return str(bound) if bound < 2 else f"{bound:,}–{2 * bound - 1:,}"


def _rules(report: Report, what: str, whole: int) -> list[Rule]:
    samples = report.get("samples", {}).get(what, {})
    if what == "dropped":
        samples = _unread(report.get("bad_rows", {}).get("listed", [])) | samples
    return [
        Rule(bar.name, bar.rows, bar.share, samples.get(bar.name, [])[:MOST_EXAMPLES])
        for bar in _bars(report.get(what, {}), whole)
    ]


def _unread(notes: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows that could not be read, by code: of them there is no text, only a place and why."""
    found: dict[str, list[dict[str, Any]]] = {}
    for note in notes:
        found.setdefault(note["code"], []).append({**note, "reason": note["message"]})
    return found


def _falls(report: Report, read: int, kept: int) -> list[Fall]:
    """From what came in, step by step, to what is kept."""
    left = read
    falls = [_fall("rows in", read, 0, read)]
    losses = {
        "could not be read": report.get("bad_rows", {}).get("total", 0),
        "erased on demand": report.get("dropped", {}).get("erased", 0),
    }
    for name, lost in losses.items():
        if lost:
            left -= lost
            falls.append(_fall(name, left, lost, read))
    for step in report.get("steps", []):
        lost = sum(step["dropped"].values())
        changed = sum(step["changed"].values())
        falls.append(_fall(step["op"], step["rows_kept"], lost, read, changed))
    return [*falls, _fall("kept", kept, 0, read)]


def _fall(name: str, kept: int, lost: int, whole: int, changed: int = 0) -> Fall:
    return Fall(name, kept, lost, _share(kept, whole), _share(lost, whole), changed)


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0
