"""What an id is by how it begins, and walks that come by a thing on two ways."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.gateway.lineage.graph import Direction, Graph, Link, Node, kind_of, shape, walk


@pytest.mark.parametrize(
    ("id_", "kind"),
    [
        ("registry:service", "registered_model"),
        ("registry:service@2", "model_version"),
        ("reg-0123", "registered_model"),
        ("reg-0123@12", "model_version"),
        ("search-0123", "search"),
        ("search-0123@0", "trial"),
        ("eval_0123", "eval"),
        ("evalrun_0123", "eval_run"),
        ("dec-0123", "decision"),
        ("promotion-7", "promotion"),
        ("dsv-0123", "version"),
        ("chatcmpl-a@b", "answer"),
        ("regreq-0123", None),
        ("ft:base:x:1", None),
    ],
)
def test_an_id_says_what_it_is_of(id_: str, kind: str | None) -> None:
    assert kind_of(id_) == kind


def test_a_version_that_a_name_has_and_was_promoted_to_stands_once() -> None:
    model, version, decision, name = (
        Node("model", "m"),
        Node("model_version", "registry:x@1"),
        Node("decision", "dec-1"),
        Node("registered_model", "registry:x"),
    )
    links = [
        Link(model, version, "registered_as"),
        Link(version, name, "version_of"),
        Link(version, decision, "decided_on"),
        Link(decision, name, "moved"),
    ]

    def ask(kind: str, ids: Sequence[str], direction: Direction) -> tuple[list[Link], list[str]]:
        near = "child" if direction == "upstream" else "parent"
        found = [link for link in links if getattr(link, near).kind == kind and getattr(link, near).id in ids]
        return found, []

    graph = Graph()
    walk(graph, [name], "upstream", 5, ask)
    told = shape(graph)
    assert [node["id"] for node in told["nodes"]] == ["registry:x", "registry:x@1", "dec-1", "m"]
    assert len(told["edges"]) == 4
    assert not told["truncated"]
