"""The tree that `heliu data lineage` draws."""

from __future__ import annotations

from typing import Any

from services.cli.lineage import tree

NODES: list[dict[str, Any]] = [
    {"id": "chatcmpl-1", "kind": "answer", "status": "ok"},
    {"id": "ft:b:x:1", "kind": "model", "model_kind": "adapter", "needs_rebuild": ["erasure-1"]},
    {"id": "dsv-1", "kind": "version", "dataset": "service", "rows": 3},
    {"id": "b", "kind": "model", "model_kind": "base"},
]


def edge(parent: int, child: int, type_: str) -> dict[str, Any]:
    ends = NODES[parent], NODES[child]
    told = {
        "from": ends[0]["id"],
        "from_kind": ends[0]["kind"],
        "to": ends[1]["id"],
        "to_kind": ends[1]["kind"],
    }
    return {**told, "type": type_}


EDGES = [
    edge(1, 0, "answered"),
    edge(2, 1, "trained_on"),
    edge(3, 1, "stands_on"),
    edge(2, 3, "trained_on"),
]


def test_the_way_back_from_an_answer_is_drawn_with_rows_and_nothing_twice() -> None:
    row = {"row_id": "row-1", "line": 7, "split": "train"}
    told = {
        "nodes": NODES,
        "edges": EDGES,
        "direction": "upstream",
        "rows": {"dsv-1": {"data": [row], "total": 3}},
    }
    assert tree(told) == [
        "answer chatcmpl-1  (ok)",
        "└─ answered: model ft:b:x:1  (adapter, needs a rebuild)",
        "   ├─ trained on: version dsv-1  (service, 3 rows)",
        "   │  ├─ row row-1  (line 7, train)",
        "   │  └─ ... 2 more rows",
        "   └─ stands on: model b  (base)",
        "      └─ trained on: version dsv-1  (service, 3 rows, see above)",
    ]


def test_the_way_on_from_a_version_begins_with_it() -> None:
    told = {"nodes": [NODES[2], *NODES[:2], NODES[3]], "edges": EDGES, "direction": "downstream"}
    assert tree(told) == [
        "version dsv-1  (service, 3 rows)",
        "├─ trained on: model ft:b:x:1  (adapter, needs a rebuild)",
        "│  └─ answered: answer chatcmpl-1  (ok)",
        "└─ trained on: model b  (base)",
        "   └─ stands on: model ft:b:x:1  (adapter, needs a rebuild, see above)",
    ]


def test_an_id_cannot_move_the_cursor() -> None:
    node = {"id": "a\x1b[2J\nb", "kind": "model"}
    (line,) = tree({"nodes": [node], "edges": [], "direction": "upstream"})
    assert "\x1b" not in line
    assert "\n" not in line
