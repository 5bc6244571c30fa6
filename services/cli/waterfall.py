"""The spans of a trace as lines of a tree with bars. Pure: values in, lines out; knows no HTTP and no colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared import semconv

Span = Mapping[str, Any]
BAR = 24
UNICODE = ("├─ ", "└─ ", "│  ", "━")
ASCII = ("|- ", "`- ", "|  ", "=")


@dataclass(frozen=True)
class Line:
    """One span. `offset_ms` counts from the first span's start; `note` tells attempt, queue wait, events, links."""

    branch: str
    name: str
    service: str
    offset_ms: float
    duration_ms: float
    bar: str
    failed: bool
    note: str


def lines(spans: Sequence[Span], *, width: int = BAR, ascii_only: bool = False) -> list[Line]:
    """Depth first, siblings by their start. A span whose parent is not there (yet) stands at the root."""
    if not spans:
        return []
    tee, corner, pipe, block = ASCII if ascii_only else UNICODE
    begin = min(span["start_ns"] for span in spans)
    whole = max(max(span["end_ns"] for span in spans) - begin, 1)
    children = _children(spans)
    drawn: list[Line] = []
    seen: set[str] = set()

    def walk(roots: Sequence[Span]) -> None:
        waiting = [(root, "", "") for root in reversed(roots)]
        while waiting:
            span, branch, below = waiting.pop()
            if span["span_id"] in seen:
                continue
            seen.add(span["span_id"])
            drawn.append(_line(span, branch, begin, whole, width, block))
            kids = children.get(span["span_id"], [])
            last = len(kids) - 1
            waiting.extend(
                (kid, below + (corner if n == last else tee), below + ("   " if n == last else pipe))
                for n, kid in reversed(list(enumerate(kids)))
            )

    walk(children.get("", []))
    # Spans that are each other's parents hang from no root.
    for span in sorted(spans, key=_start):
        if span["span_id"] not in seen:
            walk([span])
    return drawn


def duration(ms: float) -> str:
    """Milliseconds as a person reads them."""
    if ms < 1000:
        return f"{ms:.1f} ms" if ms < 100 else f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 120:
        return f"{seconds:.2f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def plain(text: Any) -> str:
    """Text that cannot move the cursor: control characters become spaces."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def _start(span: Span) -> tuple[int, str]:
    return span["start_ns"], span["span_id"]


def _children(spans: Sequence[Span]) -> dict[str, list[Span]]:
    """Spans by their parent's id, in order of start; roots and orphans under the empty id."""
    known = {span["span_id"] for span in spans}
    found: dict[str, list[Span]] = {}
    for span in sorted(spans, key=_start):
        parent = span["parent_id"] if span["parent_id"] in known else ""
        found.setdefault(parent, []).append(span)
    return found


def _line(span: Span, branch: str, begin: int, whole: int, width: int, block: str) -> Line:
    offset, length = span["start_ns"] - begin, span["end_ns"] - span["start_ns"]
    left = min(width - 1, offset * width // whole)
    right = min(width, max(left + 1, -(-(offset + length) * width // whole)))
    return Line(
        branch=branch,
        name=plain(span["name"]),
        service=plain(span["service"]),
        offset_ms=offset / 1e6,
        duration_ms=length / 1e6,
        bar=" " * left + block * (right - left) + " " * (width - right),
        failed=span["status"] == "error",
        note=_note(span),
    )


def _note(span: Span) -> str:
    attributes = span.get("attributes") or {}
    parts: list[str] = []
    if semconv.QUEUE_WAIT in attributes:
        parts.append(f"waited {duration(float(attributes[semconv.QUEUE_WAIT]) * 1000)}")
    if semconv.ATTEMPT in attributes:
        parts.append(f"attempt {attributes[semconv.ATTEMPT]}")
    if attributes.get(semconv.MESSAGING_REDELIVERED):
        parts.append("redelivered")
    if semconv.GEN_AI_OUTPUT_TOKENS in attributes:
        tokens = attributes.get(semconv.GEN_AI_INPUT_TOKENS, "?"), attributes[semconv.GEN_AI_OUTPUT_TOKENS]
        parts.append(f"{tokens[0]} + {tokens[1]} tokens")
    for event in span.get("events") or ():
        parts.append(f"{event['name']} at {duration((event['time_ns'] - span['start_ns']) / 1e6)}")
    elsewhere = {link["trace_id"] for link in span.get("links") or ()} - {span["trace_id"]}
    parts.extend(f"see {trace}" for trace in sorted(elsewhere))
    if span["status"] == "error":
        parts.append(span.get("status_message") or "failed")
    return plain(", ".join(parts))
