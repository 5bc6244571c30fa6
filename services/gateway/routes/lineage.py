"""`/v1/lineage`: from any row, file, version, model, eval, release, answer or job to all that it came from, or went
into."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request

from services.gateway.auth import Caller
from services.gateway.context import CallerDep, Gateway, GatewayDep
from services.gateway.lineage import graph as lineage
from services.gateway.lineage import openlineage, releases_repository, repository, traced_rows
from services.gateway.lineage.graph import Direction, Graph, Link, Node
from services.gateway.pages import PageDep, listing, unknown_cursor
from services.gateway.shapes import unix
from shared.contracts.answers import CHAT, TEXT, answer_id
from shared.contracts.lineage import MAX_ROWS
from shared.db import Connection, Row
from shared.errors import NotFound

router = APIRouter(tags=["lineage"])

# What leads on to no model.
NO_WAY_TO_MODELS = ("answer", "eval_run", "decision", "promotion", "model_version", "registered_model")
RELEASES = ("registered_model", "model_version")
# Versions that a row is looked for in, the newest first.
MOST_VERSIONS = 5_000
# Of the versions of a graph, how many tell their rows.
MOST_LISTED = 20

Way = Annotated[Direction, Query(description="what it came from, or what it went into")]
Depth = Annotated[int, Query(ge=1, le=20, description="links to follow at most")]
Limit = Annotated[int, Query(ge=1, le=500, description="neighbours of each kind that a node shows")]


@router.get("/v1/lineage/{id}", summary="What something came from, or went into")
async def retrieve(
    request: Request,
    id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    direction: Way = "upstream",
    depth: Depth = 10,
    limit: Limit = 100,
    rows: Annotated[int, Query(ge=0, le=MAX_ROWS, description="source rows of each version to show")] = 20,
    offset: Annotated[int, Query(ge=0, le=2**53, description="rows of each version to pass over")] = 0,
) -> dict[str, Any]:
    """Nodes, edges from what was made to what it was made of or the other way, and upstream the rows of each version
    that is reached: from an answer to the source rows of its adapter, and from a row to every answer, in one call."""
    graph = await _trace(request, gateway, caller, id, direction, depth, limit)
    shaped = {"object": "lineage", "id": id, "direction": direction, "depth": depth, **lineage.shape(graph)}
    if direction == "downstream" or not rows:
        return shaped
    return {**shaped, "rows": await _rows(request, gateway, graph, offset, rows)}


@router.get("/v1/lineage/{id}/answers", summary="Every answer that something may have shaped")
async def answers(
    request: Request, id: str, gateway: GatewayDep, caller: CallerDep, page: PageDep
) -> dict[str, Any]:
    """Newest first, of all models downstream of it; of a registered model, or a version, those under its name."""
    graph = await _trace(request, gateway, caller, id, "downstream", 20, 500, kinds=NO_WAY_TO_MODELS)
    root = next(iter(graph.nodes))

    def look() -> tuple[list[Row], bool]:
        with gateway.db.transaction(caller.tenant) as connection:
            after = repository.answer_place(connection, caller.tenant, page.after) if page.after else None
            if page.after and after is None:
                raise unknown_cursor(page.after)
            if root.kind in RELEASES:
                found = releases_repository.answers(connection, caller.tenant, root.id, after, page.limit + 1)
            else:
                models = graph.of("model")
                found = repository.answers(connection, caller.tenant, models, after, page.limit + 1)
        return found[: page.limit], len(found) > page.limit

    found, more = await to_thread.run_sync(look)
    return listing(
        [{**row, "object": "lineage.answer", "created_at": unix(row["created_at"])} for row in found], more
    )


@router.get("/v1/lineage/{id}/openlineage", summary="The same as OpenLineage run events")
async def export(
    request: Request,
    id: str,
    gateway: GatewayDep,
    caller: CallerDep,
    direction: Way = "upstream",
    depth: Depth = 10,
) -> dict[str, Any]:
    """One START and one end event of each job on the way, with the data sets that it took and made.

    https://openlineage.io/spec/2-0-2/OpenLineage.json
    """
    graph = await _trace(request, gateway, caller, id, direction, depth, 100)

    def look() -> dict[str, Row]:
        wanted = sorted({link.job for link in graph.links if link.job} | set(graph.of("job")))
        with gateway.db.transaction(caller.tenant) as connection:
            return repository.about(connection, caller.tenant, "job", wanted)

    jobs = await to_thread.run_sync(look)
    return {"object": "list", "data": openlineage.events(graph, jobs, caller.tenant_name), "has_more": False}


async def _trace(
    request: Request,
    gateway: Gateway,
    caller: Caller,
    id_: str,
    direction: Direction,
    depth: int,
    limit: int,
    kinds: tuple[str, ...] = (),
) -> Graph:
    """The graph around one thing, without nodes of these kinds. Raises NotFound."""
    graph = Graph()
    roots: list[Node] = []
    if lineage.kind_of(id_) == "row":
        roots = await _row_roots(request, gateway, caller, graph, id_, direction)
        depth -= 1

    def walk() -> None:
        with gateway.db.transaction(caller.tenant) as connection:
            from_ = roots or [_root(connection, caller, id_)]

            def ask(kind: str, ids: Any, way: Direction) -> tuple[list[Link], list[str]]:
                links, cut = repository.neighbours(connection, caller.tenant, kind, ids, way, limit)
                return [link for link in links if link.child.kind not in kinds], cut

            if depth or not roots:
                lineage.walk(graph, from_, direction, depth, ask)
            for kind in {node.kind for node in graph.nodes}:
                known = repository.about(connection, caller.tenant, kind, graph.of(kind))
                for key, row in known.items():
                    graph.nodes[Node(kind, key)].update(_told(row))
                    if "artifact" in row and row["deleted_at"] is None:
                        graph.artifacts[key] = row["artifact"]

    await to_thread.run_sync(walk)
    return graph


async def _row_roots(
    request: Request, gateway: Gateway, caller: Caller, graph: Graph, row_id: str, direction: Direction
) -> list[Node]:
    """Ties a row to the versions that hold it, or to the file and the rows that it is of; returns those ends."""

    def look() -> list[Row]:
        with gateway.db.transaction(caller.tenant) as connection:
            return repository.versions(connection, caller.tenant, MOST_VERSIONS)

    versions = await to_thread.run_sync(look)
    found = await traced_rows.find(request, gateway, versions, [row_id])
    if not found:
        raise NotFound(f"no version of a dataset has a row {row_id!r}", param="id")
    me = Node("row", row_id)
    first = found[0]
    graph.nodes[me] = {"line": first["line"], "source_id": first["id"]}
    files = {row["id"]: row["files"] for row in versions}
    ends: list[Node] = []
    for place in found:
        version = Node("version", place["version"])
        if direction == "downstream":
            links = [Link(me, version, f"{place['split']}_row_of")]
        else:
            # Rows of versions from before there were several inputs are of the first.
            file = files[version.id][place.get("source", 0)]
            above = [Node("file", file)] if file else []
            above += [Node("row", parent) for parent in place.get("parents") or () if parent != row_id]
            links = [Link(node, me, "line_of" if node.kind == "file" else "made_into") for node in above]
        for link in links:
            far = link.child if direction == "downstream" else link.parent
            if graph.add(link, me, far):
                ends.append(far)
    return ends or [me]


def _root(connection: Connection, caller: Caller, id_: str) -> Node:
    """The node of this id, whatever it is. Raises NotFound."""
    bare = id_.removeprefix("batch_req_")
    names = [id_] if bare == id_ else [answer_id(CHAT, bare), answer_id(TEXT, bare)]
    guess = lineage.kind_of(id_)
    for kind in dict.fromkeys((guess or "job", "job", "model", "answer")):
        for name in names:
            # An answer is asked for by its request too, and has one name in the graph.
            for known in repository.about(connection, caller.tenant, kind, [name]):
                return Node(kind, known)
    raise NotFound(
        f"nothing here has the id {id_!r}; a row, file, dataset version, model, registered name, eval, run, search, "
        "answer or job has lineage",
        param="id",
    )


async def _rows(
    request: Request, gateway: Gateway, graph: Graph, offset: int, limit: int
) -> dict[str, dict[str, Any]]:
    """The source rows of each version of the graph, a page each."""
    found: dict[str, dict[str, Any]] = {}
    for version, artifact in list(graph.artifacts.items())[:MOST_LISTED]:
        found[version] = await traced_rows.listed(request, gateway, artifact, offset, limit)
    return found


def _told(row: Row) -> dict[str, Any]:
    """What is known of a node as clients see it."""
    told = {name: row[name] for name in row if name not in ("id", "artifact") and row[name] is not None}
    return told | {name: unix(value) for name, value in told.items() if name.endswith("_at")}
