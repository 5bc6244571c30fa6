"""`heliu data lineage`: what something came from, or went into, as a tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any

import typer

from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import text
from services.cli.output import err, out, print_json

TEE, CORNER, PIPE, SPACE = "├─ ", "└─ ", "│  ", "   "
ROWS_SHOWN = 5
# What is told of a node, where it has it.
TOLD = (
    "name",
    "dataset",
    "filename",
    "source_kind",
    "model_kind",
    "job_kind",
    "task",
    "endpoint",
    "status",
    "state",
    "stage",
    "verdict",
    "action",
    "metric",
)
Item = Mapping[str, Any]


def lineage(
    id: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="A row, file, dataset version, model, registry:NAME, eval, answer, job."
        ),
    ],
    down: Annotated[
        bool, typer.Option("--down", help="What it went into, instead of what it is from.")
    ] = False,
    depth: Annotated[int, typer.Option(min=1, max=20, help="Links to follow.")] = 10,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Neighbours of a kind to show.")] = 20,
    rows: Annotated[int, typer.Option(min=0, max=500, help="Source rows of each version.")] = ROWS_SHOWN,
    openlineage: Annotated[bool, typer.Option("--openlineage", help="OpenLineage run events, JSON.")] = False,
    as_json: Json = False,
) -> None:
    """From anything back to its source rows, or on to every answer."""
    direction = "downstream" if down else "upstream"
    with closing(connect()) as client:
        if openlineage:
            print_json(client.get(path_of("lineage", id, "openlineage"), direction=direction, depth=depth))
            return
        told = client.get(path_of("lineage", id), direction=direction, depth=depth, limit=limit, rows=rows)
    if as_json:
        print_json(told)
        return
    for line in tree(told):
        out.print(line)
    if told["truncated"]:
        err.print("there is more; --limit and --depth show more of it")


def tree(told: Item) -> list[str]:
    """The graph as lines, from the thing that was asked about; what was drawn before is not drawn out again."""
    nodes = {(node["kind"], node["id"]): node for node in told["nodes"]}
    down = told["direction"] == "downstream"
    beside: dict[tuple[str, str], list[tuple[str, tuple[str, str]]]] = {}
    for edge in told["edges"]:
        ends = (edge["from_kind"], edge["from"]), (edge["to_kind"], edge["to"])
        near, far = ends if down else ends[::-1]
        beside.setdefault(near, []).append((edge["type"], far))
    lines: list[str] = []
    drawn: set[tuple[str, str]] = set()
    (first, *_) = nodes
    waiting = [("", first, "", "")]
    while waiting:
        how, key, branch, below = waiting.pop()
        again = key in drawn
        drawn.add(key)
        lines.append(branch + _line(how, nodes[key], again=again))
        under = [] if again else beside.get(key, [])
        listed = (
            [] if again or down else _rows(told.get("rows", {}).get(key[1]) if key[0] == "version" else None)
        )
        for number, line in enumerate(listed):
            last = number == len(listed) - 1 and not under
            lines.append(below + (CORNER if last else TEE) + line)
        for number, (type_, far) in reversed(list(enumerate(under))):
            last = number == len(under) - 1
            waiting.append((type_, far, below + (CORNER if last else TEE), below + (SPACE if last else PIPE)))
    return lines


def _line(how: str, node: Item, *, again: bool) -> str:
    more = [text(node[name]) for name in TOLD if node.get(name)]
    if node.get("rows") is not None:
        more.append(f"{node['rows']} rows")
    if node.get("line"):
        more.append(f"line {node['line']}")
    if node.get("deleted_at"):
        more.append("deleted")
    if node.get("needs_rebuild"):
        more.append("needs a rebuild")
    if node.get("has_more"):
        more.append("and more")
    if again:
        more.append("see above")
    label = f"{node['kind']} {text(node['id'])}"
    return (f"{how.replace('_', ' ')}: " if how else "") + label + (f"  ({', '.join(more)})" if more else "")


def _rows(page: Item | None) -> Sequence[str]:
    if page is None or not page["data"]:
        return []
    lines = [f"row {row['row_id']}  (line {row['line']}, {row['split']})" for row in page["data"]]
    left = page["total"] - len(lines)
    return [*lines, f"... {left} more rows"] if left > 0 else lines
