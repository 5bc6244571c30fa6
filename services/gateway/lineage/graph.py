"""The graph of what came from what: a walk along edges, level by level. Pure; where edges come from is handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Direction = Literal["upstream", "downstream"]
MOST_NODES = 5_000
# What an id is, by how it begins. A job's or a model's is found by looking.
PREFIXES = {
    "row-": "row",
    "dsv-": "version",
    "file-": "file",
    "src-": "source",
    "lab-": "project",
    "chatcmpl-": "answer",
    "cmpl-": "answer",
    "req_": "answer",
    "batch_req_": "answer",
    "eval_": "eval",
    "evalrun_": "eval_run",
    "registry:": "registered_model",
    "reg-": "registered_model",
    "dec-": "decision",
    "promotion-": "promotion",
    "search-": "search",
}
# What is numbered within another thing: `registry:NAME@2`, `search-...@3`.
PARTS = {"registered_model": "model_version", "search": "trial"}


@dataclass(frozen=True)
class Node:
    """One thing; ids are unique within a kind."""

    kind: str
    id: str


@dataclass(frozen=True)
class Link:
    """`child` came of `parent`, in the way that `type` says, by a job where one did it."""

    parent: Node
    child: Node
    type: str
    job: str | None = None


@dataclass
class Graph:
    """Nodes in the order of their finding. `cut` are those that have more neighbours than are shown.

    `artifacts` has where the bytes of versions lie, which is for the platform alone.
    """

    nodes: dict[Node, dict[str, Any]] = field(default_factory=dict)
    links: dict[Link, None] = field(default_factory=dict)
    cut: set[Node] = field(default_factory=set)
    artifacts: dict[str, str] = field(default_factory=dict)
    truncated: bool = False

    def of(self, kind: str) -> list[str]:
        """Ids of the nodes of a kind."""
        return [node.id for node in self.nodes if node.kind == kind]

    def add(self, link: Link, near: Node, far: Node) -> bool:
        """Take the link up, unless its far end is one too many; whether that end is new."""
        if far not in self.nodes and len(self.nodes) >= MOST_NODES:
            self.truncated = True
            self.cut.add(near)
            return False
        self.links[link] = None
        new = far not in self.nodes
        self.nodes.setdefault(far, {})
        return new


# Links of some nodes of one kind in one direction, and those of the nodes that have more than these.
Neighbours = Callable[[str, Sequence[str], Direction], tuple[Sequence[Link], Sequence[str]]]


def kind_of(id_: str) -> str | None:
    """The kind that an id's beginning tells; None for one that has to be looked for."""
    kind = next((kind for prefix, kind in PREFIXES.items() if id_.startswith(prefix)), None)
    return PARTS.get(kind or "", kind) if "@" in id_ else kind


def walk(graph: Graph, roots: Iterable[Node], direction: Direction, depth: int, ask: Neighbours) -> None:
    """Add to the graph all that is at most `depth` links away from the roots, and the roots."""
    level = list(dict.fromkeys(roots))
    for root in level:
        graph.nodes.setdefault(root, {})
    for _ in range(depth):
        found: dict[Node, None] = {}
        for kind in dict.fromkeys(node.kind for node in level):
            links, cut = ask(kind, [node.id for node in level if node.kind == kind], direction)
            graph.cut |= {Node(kind, id_) for id_ in cut}
            for link in links:
                ends = (link.parent, link.child)
                near, far = ends if direction == "downstream" else ends[::-1]
                if graph.add(link, near, far):
                    found[far] = None
        if not found:
            return
        level = list(found)
    kinds = {node.kind for node in level}
    if any(ask(kind, [n.id for n in level if n.kind == kind], direction)[0] for kind in kinds):
        graph.truncated = True


def shape(graph: Graph) -> dict[str, Any]:
    """Nodes and edges as clients see them."""
    return {
        "nodes": [
            {
                "id": node.id,
                "kind": node.kind,
                **about,
                **({"has_more": True} if node in graph.cut else {}),
            }
            for node, about in graph.nodes.items()
        ],
        "edges": [
            {
                "from": link.parent.id,
                "from_kind": link.parent.kind,
                "to": link.child.id,
                "to_kind": link.child.kind,
                "type": link.type,
                "job_id": link.job,
            }
            for link in graph.links
        ],
        "truncated": graph.truncated or bool(graph.cut),
    }
