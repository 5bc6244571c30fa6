"""The platform's services and the edges between them as data, and what real spans must show of them.

Spans are the dictionaries that `GET /v1/traces/{id}` gives. An edge holds when one pair of spans shows it, so the
spans of several traces may be looked at together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from shared import semconv

Span = Mapping[str, Any]

SERVICES = ("gateway", "data_governance", "training", "inference", "monitoring")


@dataclass(frozen=True)
class Node:
    """A kind of span: by service, kind and the pattern of its name; `attributes` must be on it."""

    service: str
    kind: str
    name: str
    attributes: tuple[str, ...] = ()

    def fits(self, span: Span) -> bool:
        return (
            span["service"] == self.service
            and span["kind"] == self.kind
            and fnmatchcase(span["name"], self.name)
        )

    def lacks(self, span: Span) -> list[str]:
        return [name for name in self.attributes if name not in span["attributes"]]

    def __str__(self) -> str:
        return f"{self.service}: {self.name} ({self.kind})"


@dataclass(frozen=True)
class Edge:
    """`to` is a child of `source`, or links to it.

    Not `sure`: a doorbell of the dispatcher, which belongs to no trace, may come before the gateway's.
    """

    flow: str
    source: Node
    to: Node
    relation: Literal["child", "link"] = "child"
    sure: bool = True

    def __str__(self) -> str:
        arrow = "->" if self.relation == "child" else "~>"
        return f"{self.flow}: {self.source} {arrow} {self.to}"


def server(route: str, method: str = "POST") -> Node:
    return Node("gateway", "server", f"{method} {route}", (semconv.TENANT, semconv.REQUEST_ID))


def send(queue: str) -> Node:
    return Node("gateway", "producer", f"send {queue}", (semconv.MESSAGING_DESTINATION,))


def process(service: str, queue: str) -> Node:
    carried = (semconv.QUEUE_WAIT, semconv.ATTEMPT, semconv.TENANT, semconv.MESSAGING_REDELIVERED)
    return Node(service, "consumer", f"process {queue}", carried)


def inside(service: str, name: str, *attributes: str) -> Node:
    return Node(service, "internal", name, attributes)


def live(flow: str, request: Node, queue: str, service: str) -> tuple[Edge, ...]:
    """A live request: the message itself carries the trace, as parent and as link."""
    return (
        Edge(flow, request, send(queue)),
        Edge(flow, send(queue), process(service, queue)),
        Edge(flow, send(queue), process(service, queue), "link"),
    )


def durable(flow: str, route: str, queue: str, service: str, *work: str) -> tuple[Edge, ...]:
    """A job: its row carries the trace to the worker, the doorbell's span is linked."""
    return (
        Edge(flow, server(route), process(service, queue)),
        Edge(flow, server(route), send(queue), sure=False),
        Edge(flow, send(queue), process(service, queue), "link", sure=False),
        *(Edge(flow, process(service, queue), inside(service, name)) for name in work),
    )


CHAT = inside("inference", "chat *", semconv.GEN_AI_REQUEST_MODEL, semconv.GEN_AI_OUTPUT_TOKENS)
CHAT_ROUTE = server("/v1/chat/completions")
ROWS_ROUTE = server("/v1/datasets/{name}/versions/{version_id}/rows", "GET")
# A platform may be another's upstream, or its own: the trace goes on through its door.
ASKED = Node(
    "inference",
    "client",
    "chat *",
    (semconv.GEN_AI_REQUEST_MODEL, semconv.GEN_AI_OUTPUT_TOKENS, semconv.SERVER_ADDRESS),
)
TRIAL = Node(
    "training", "consumer", "process training.*", (semconv.SEARCH, semconv.TRIAL, semconv.QUEUE_WAIT)
)
FILES_ROUTE = "/v1/vector_stores/{vector_store_id}/files"
LIVE_QUEUE, BATCH_QUEUE = "inference.*.live", "inference.*.batch"

EDGES: tuple[Edge, ...] = (
    *live("chat", CHAT_ROUTE, LIVE_QUEUE, "inference"),
    Edge("chat", CHAT_ROUTE, inside("gateway", "authorize")),
    Edge("chat", CHAT_ROUTE, inside("gateway", "quota")),
    Edge("chat", process("inference", LIVE_QUEUE), CHAT),
    *(Edge("chat", CHAT, inside("inference", f"engine.{part}")) for part in ("queue", "prefill", "decode")),
    *live("upstream", CHAT_ROUTE, LIVE_QUEUE, "inference"),
    Edge("upstream", process("inference", LIVE_QUEUE), CHAT),
    Edge("upstream", CHAT, ASKED),
    Edge("upstream", ASKED, CHAT_ROUTE),
    *durable("background", "/v1/chat/completions", "inference.*.chats.batch", "inference", "chat *"),
    *(
        Edge("background", CHAT, inside("inference", f"engine.{part}"))
        for part in ("queue", "prefill", "decode")
    ),
    *durable("data", "/v1/datasets*", "data", "data_governance", "data.build", "data.store"),
    *durable("sync", "/v1/sources/{name}/syncs", "data.sync", "data_governance", "data.sync"),
    *durable("check", "/v1/checks", "data.check", "data_governance", "data.check"),
    *durable("index", FILES_ROUTE, "data.index", "data_governance", "retrieval.chunk", "retrieval.index"),
    # The texts of a file are given their vectors where the model is.
    Edge("index", process("data_governance", "data.index"), process("inference", BATCH_QUEUE)),
    *live("preview", ROWS_ROUTE, "data.live", "data_governance"),
    Edge("preview", process("data_governance", "data.live"), inside("data_governance", "data.preview")),
    *durable(
        "pretraining",
        "/v1/training/jobs",
        "training.*",
        "training",
        "load",
        "tokenise",
        "epoch",
        "eval",
        "save",
    ),
    *durable("evaluation", "/v1/evaluations", "training.*", "training", "load", "tokenise", "eval"),
    *durable(
        "fine_tuning",
        "/v1/fine_tuning/jobs",
        "training.*",
        "training",
        "load",
        "tokenise",
        "epoch",
        "checkpoint",
        "eval",
        "save",
    ),
    # A run of an eval waits for the batches that it hands out, and grades what comes back.
    *durable("eval", "/v1/evals/{eval_id}/runs", "training.light", "training", "eval.figures"),
    Edge("eval", process("training", "training.light"), process("inference", BATCH_QUEUE)),
    *live("grade", server("/v1/fine_tuning/alpha/graders/run"), "training.live", "training"),
    Edge("grade", process("training", "training.live"), inside("training", "eval.grade")),
    # A search waits for its trials, which run where every training does.
    *durable("search", "/v1/training/searches", "training.light", "training"),
    Edge("search", process("training", "training.light"), TRIAL),
    *(Edge("search", TRIAL, inside("training", part)) for part in ("load", "epoch", "eval", "save")),
    *durable("batch", "/v1/batches", BATCH_QUEUE, "inference", "batch.plan"),
    *durable("noop", "/v1/jobs", "monitoring", "monitoring"),
    # The shards of a small batch stay in its trace.
    Edge("batch", process("inference", BATCH_QUEUE), process("inference", BATCH_QUEUE)),
)

FLOWS = tuple(dict.fromkeys(edge.flow for edge in EDGES))


def missing_edges(
    spans: Sequence[Span], flows: Sequence[str] = FLOWS, *, doorbells: bool = False
) -> list[str]:
    """What the spans do not show of these flows, one line each; empty when every edge is there.

    `doorbells` asks for the edges that are not sure, too.
    """
    unknown = set(flows) - set(FLOWS)
    assert not unknown, f"no such flow: {sorted(unknown)}; there are {FLOWS}"
    by_id = {(span["trace_id"], span["span_id"]): span for span in spans}
    wanted = [edge for edge in EDGES if edge.flow in flows and (edge.sure or doorbells)]
    return [line for edge in wanted if (line := _missing(edge, spans, by_id)) is not None]


def disconnected(spans: Sequence[Span]) -> list[str]:
    """Spans that hang from no other of their trace, beyond the one root that each trace has."""
    known = {(span["trace_id"], span["span_id"]) for span in spans}
    roots: dict[str, list[Span]] = {}
    for span in spans:
        if (span["trace_id"], span["parent_id"]) not in known:
            roots.setdefault(span["trace_id"], []).append(span)
    lost = []
    for trace, found in roots.items():
        # One root may have a parent that is the caller's own; any more are pieces of a broken trace.
        for span in sorted(found, key=lambda one: int(one["start_ns"]))[1:]:
            lost.append(f"{trace}: {span['service']}: {span['name']} hangs from nothing")
    return lost


def _missing(edge: Edge, spans: Sequence[Span], by_id: Mapping[tuple[str, str], Span]) -> str | None:
    candidates = [span for span in spans if edge.to.fits(span)]
    if not candidates:
        return f"{edge}: no span of {edge.to}"
    joined = [span for span in candidates if any(map(edge.source.fits, _sources(edge, span, by_id)))]
    if not joined:
        return f"{edge}: {len(candidates)} spans, none of them joined to {edge.source}"
    lacking = [edge.to.lacks(span) for span in joined]
    if all(lacking):
        return f"{edge}: without the attributes {', '.join(lacking[0])}"
    return None


def _sources(edge: Edge, span: Span, by_id: Mapping[tuple[str, str], Span]) -> list[Span]:
    if edge.relation == "child":
        keys = [(span["trace_id"], span["parent_id"])]
    else:
        keys = [(link["trace_id"], link["span_id"]) for link in span["links"]]
    return [by_id[key] for key in keys if key in by_id]
