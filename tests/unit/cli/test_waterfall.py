"""Traces as trees with bars."""

from __future__ import annotations

from typing import Any

from services.cli import waterfall
from services.cli.traces import drawing

MS = 1_000_000
TRACE = "ab" * 16


def span(
    name: str, parent: str | None = None, at: float = 0, ms: float = 10, **values: Any
) -> dict[str, Any]:
    """A span whose id is its name; `at` and `ms` are milliseconds."""
    base: dict[str, Any] = {
        "trace_id": TRACE,
        "span_id": name,
        "parent_id": parent,
        "service": "gateway",
        "name": name,
        "start_ns": int(at * MS) + 10**18,
        "end_ns": int((at + ms) * MS) + 10**18,
        "status": "unset",
        "status_message": None,
        "attributes": {},
        "events": [],
        "links": [],
    }
    return {**base, **values}


def tree(*spans: dict[str, Any]) -> list[str]:
    return [line.branch + line.name for line in waterfall.lines(spans)]


def test_children_stand_under_their_parents_in_order_of_start() -> None:
    drawn = tree(
        span("late", "root", at=5),
        span("grandchild", "early", at=2),
        span("root"),
        span("early", "root", at=1),
    )
    assert drawn == ["root", "├─ early", "│  └─ grandchild", "└─ late"]


def test_a_span_whose_parent_is_missing_stands_at_the_root() -> None:
    assert tree(span("orphan", "never-arrived", at=3), span("root")) == ["root", "orphan"]


def test_spans_that_are_each_others_parents_are_drawn_once() -> None:
    assert tree(span("a", "b"), span("b", "a", at=1)) == ["a", "└─ b"]
    assert tree(span("self", "self")) == ["self"]


def test_a_chain_of_thousands_is_drawn() -> None:
    chain = [span(f"s{n}", f"s{n - 1}" if n else None, at=n) for n in range(3000)]
    assert len(waterfall.lines(chain)) == 3000


def test_nothing_gives_no_lines() -> None:
    assert waterfall.lines([]) == []


def test_bars_show_offset_and_length_in_the_same_scale() -> None:
    lines = waterfall.lines(
        [span("root", ms=100), span("half", "root", at=50, ms=50), span("blink", "root", at=99.9, ms=0)],
        width=10,
    )
    assert [line.bar for line in lines] == ["━" * 10, " " * 5 + "━" * 5, " " * 9 + "━"]
    assert [(line.offset_ms, line.duration_ms) for line in lines] == [(0, 100), (50, 50), (99.9, 0)]


def test_a_terminal_without_unicode_gets_ascii() -> None:
    lines = waterfall.lines([span("root"), span("kid", "root")], ascii_only=True)
    assert all((line.branch + line.bar).isascii() for line in lines)


def test_a_consumer_tells_its_wait_and_attempt() -> None:
    attributes = {"heliu.queue.wait_s": 0.0123, "heliu.attempt": 2, "messaging.redelivered": True}
    (line,) = waterfall.lines([span("process data", attributes=attributes)])
    assert line.note == "waited 12.3 ms, attempt 2, redelivered"


def test_events_tokens_links_and_failures_are_told() -> None:
    (line,) = waterfall.lines(
        [
            span(
                "chat demo",
                attributes={"gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 20},
                events=[{"name": "first_token", "time_ns": 10**18 + 4 * MS, "attributes": {}}],
                links=[{"trace_id": TRACE, "span_id": "x"}, {"trace_id": "cd" * 16, "span_id": "y"}],
                status="error",
                status_message="the engine fell",
            )
        ]
    )
    assert line.failed
    assert line.note == f"7 + 20 tokens, first_token at 4.0 ms, see {'cd' * 16}, the engine fell"


def test_names_cannot_move_the_cursor_or_colour_the_terminal() -> None:
    (line,) = waterfall.lines([span("\x1b[31mred\n\x07", status="error", status_message="\x1b]0;title\x07")])
    assert (line.name, line.note) == (" [31mred  ", " ]0;title ")


def test_times_read_well() -> None:
    shown = [waterfall.duration(ms) for ms in (0.04, 12.34, 250, 1500, 180_000, 10_800_000)]
    assert shown == ["0.0 ms", "12.3 ms", "250 ms", "1.50 s", "3.0 min", "3.0 h"]


def test_columns_line_up_with_wide_characters() -> None:
    rows = drawing(
        [span("对话 请求", ms=100), span("engine.decode", "对话 请求", at=50, ms=50, service="inference")]
    )
    assert rows[0].plain == "2 spans, 2 services (gateway, inference), 100 ms"
    first, second = (row.plain for row in rows[1:])
    assert first == "对话 请求         gateway       100 ms  ━━━━━━━━━━━━━━━━━━━━━━━━  +0.0 ms"
    assert second == "└─ engine.decode  inference    50.0 ms              ━━━━━━━━━━━━  +50.0 ms"
