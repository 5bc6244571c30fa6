"""The checker of the topology on hand-made spans, and that the topology speaks of what exists."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from shared import semconv
from shared.contracts.registry import CALLS, JOBS
from tests.e2e.topology import EDGES, FLOWS, SERVICES, Edge, Node, disconnected, missing_edges

TRACE = "ab" * 16


class Tracer:
    """Makes spans as the gateway gives them."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []

    def add(
        self,
        node: Node,
        name: str,
        parent: dict[str, Any] | None = None,
        link: dict[str, Any] | None = None,
        trace: str = TRACE,
    ) -> dict[str, Any]:
        number = len(self.spans) + 1
        span = {
            "trace_id": trace,
            "span_id": f"{number:016x}",
            "parent_id": parent["span_id"] if parent else None,
            "service": node.service,
            "kind": node.kind,
            "name": name,
            "start_ns": number,
            "attributes": dict.fromkeys(node.attributes, "x"),
            "links": [{"trace_id": link["trace_id"], "span_id": link["span_id"]}] if link else [],
        }
        self.spans.append(span)
        return span


def chat() -> Tracer:
    """The spans of one chat request, by the nodes of the topology itself."""
    tracer = Tracer()
    nodes = {node.name: node for edge in EDGES if edge.flow == "chat" for node in (edge.source, edge.to)}
    root = tracer.add(nodes["POST /v1/chat/completions"], "POST /v1/chat/completions")
    tracer.add(nodes["authorize"], "authorize", root)
    tracer.add(nodes["quota"], "quota", root)
    queue = "inference.default.live"
    sent = tracer.add(nodes["send inference.*.live"], f"send {queue}", root)
    worked = tracer.add(nodes["process inference.*.live"], f"process {queue}", sent, link=sent)
    answered = tracer.add(nodes["chat *"], "chat demo-base", worked)
    for part in ("queue", "prefill", "decode"):
        tracer.add(nodes[f"engine.{part}"], f"engine.{part}", answered)
    return tracer


def named(tracer: Tracer, name: str) -> dict[str, Any]:
    return next(span for span in tracer.spans if span["name"].startswith(name))


def test_a_whole_chat_misses_nothing() -> None:
    assert missing_edges(chat().spans, ["chat"]) == []
    assert disconnected(chat().spans) == []


def test_every_edge_is_missing_from_no_spans() -> None:
    sure = [edge for edge in EDGES if edge.sure]
    assert len(missing_edges([])) == len(sure)
    assert len(missing_edges([], doorbells=True)) == len(EDGES) > len(sure)


def test_a_queue_that_drops_the_parent_is_found() -> None:
    tracer = chat()
    named(tracer, "process")["parent_id"] = None
    (line,) = missing_edges(tracer.spans, ["chat"])
    assert "send inference.*.live (producer) -> inference: process inference.*.live" in line
    assert disconnected(tracer.spans) == [
        f"{TRACE}: inference: process inference.default.live hangs from nothing"
    ]


def test_a_queue_that_drops_the_link_is_found() -> None:
    tracer = chat()
    named(tracer, "process")["links"] = []
    (line,) = missing_edges(tracer.spans, ["chat"])
    assert "~>" in line


def test_a_consumer_in_a_trace_of_its_own_is_found() -> None:
    tracer = chat()
    for span in tracer.spans[4:]:
        span["trace_id"] = "cd" * 16
    assert any("none of them joined" in line for line in missing_edges(tracer.spans, ["chat"]))


@pytest.mark.parametrize("attribute", [semconv.QUEUE_WAIT, semconv.ATTEMPT])
def test_a_consumer_without_queue_wait_or_attempt_is_found(attribute: str) -> None:
    tracer = chat()
    del named(tracer, "process")["attributes"][attribute]
    lines = missing_edges(tracer.spans, ["chat"])
    assert lines
    assert all(f"without the attributes {attribute}" in line for line in lines)


def test_a_missing_engine_span_is_found() -> None:
    tracer = chat()
    tracer.spans.remove(named(tracer, "engine.prefill"))
    (line,) = missing_edges(tracer.spans, ["chat"])
    assert "engine.prefill" in line


def test_the_right_name_in_the_wrong_service_is_not_the_edge() -> None:
    tracer = chat()
    named(tracer, "engine.decode")["service"] = "gateway"
    assert len(missing_edges(tracer.spans, ["chat"])) == 1


def test_a_span_under_the_callers_own_span_is_still_connected() -> None:
    tracer = chat()
    tracer.spans[0]["parent_id"] = "ff" * 8
    assert disconnected(tracer.spans) == []


def test_an_unknown_flow_is_refused() -> None:
    with pytest.raises(AssertionError, match="chatt"):
        missing_edges([], ["chatt"])


def test_the_topology_names_services_that_exist() -> None:
    assert all(find_spec(f"services.{service}") is not None for service in SERVICES)
    assert {node.service for edge in EDGES for node in (edge.source, edge.to)} <= set(SERVICES)


def test_every_queue_of_the_topology_is_one_that_a_contract_uses() -> None:
    queues = {contract.queue.replace("{pool}", "*") for contract in (*JOBS.values(), *CALLS.values())}
    consumers = {edge.to.name.removeprefix("process ") for edge in EDGES if edge.to.kind == "consumer"}
    assert consumers <= queues


def test_each_flow_crosses_the_queue() -> None:
    def crosses(edge: Edge) -> bool:
        return edge.to.kind == "consumer"

    assert {edge.flow for edge in EDGES if crosses(edge)} == set(FLOWS)
