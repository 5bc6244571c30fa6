"""`heliu vector-stores`: files that are found again by words and by meaning."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.client import Client, connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, show, show_one, when
from services.cli.output import err
from shared.errors import HeliuError, InvalidInput

app = typer.Typer(help="Search files by words and by meaning.", no_args_is_help=True)

StoreId = Annotated[str, typer.Argument(metavar="STORE", help="Its id, vs_...")]
POLL_S = 0.3
LONGEST = 200


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is called.")],
    model: Annotated[
        str | None, typer.Option("--model", help="The encoder; without one, words alone count.")
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=365, help="Expires so many days after its last use.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an empty vector store."""
    body: dict[str, Any] = {"name": name, "embedding_model": model}
    if days is not None:
        body["expires_after"] = {"anchor": "last_active_at", "days": days}
    with closing(connect()) as client:
        show_one(client.post("/v1/vector_stores", body), as_json=as_json)


@app.command()
def add(
    store: StoreId,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Paths, or ids of uploads.")],
    attribute: Annotated[
        list[str] | None, typer.Option("--attribute", help="NAME=VALUE, for filters; many times.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until they can be searched.")] = True,
    as_json: Json = False,
) -> None:
    """Put files into a store: text, Markdown, JSON, JSONL, CSV, PDF, DOCX."""
    attributes = _attributes(attribute or [])
    with closing(connect()) as client:
        ids = [_uploaded(client, file) for file in files]
        body = {"file_ids": ids, "attributes": attributes}
        batch = client.post(path_of("vector_stores", store, "file_batches"), body)
        place = path_of("vector_stores", store, "file_batches", str(batch["id"]))
        while wait and batch["status"] == "in_progress":
            time.sleep(POLL_S)
            batch = client.get(place)
        rows = client.get(f"{place}/files", limit=100)
    columns = [
        field("id"),
        field("status"),
        field("chunks"),
        ("error", lambda row: (row["last_error"] or {}).get("message", "")),
    ]
    show(rows, columns, as_json=as_json, nothing="no files")
    if wait and batch["file_counts"]["failed"]:
        failed, total = batch["file_counts"]["failed"], batch["file_counts"]["total"]
        raise HeliuError(f"{failed} of {total} files could not be indexed", code="invalid_file")


@app.command("list")
def list_stores(
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: Json = False,
) -> None:
    """The newest stores."""
    columns = [
        field("id"),
        field("name"),
        field("status"),
        ("files", lambda row: row["file_counts"]["total"]),
        ("model", lambda row: row["embedding_model"] or "words alone"),
        when("created_at"),
    ]
    with closing(connect()) as client:
        page = client.get("/v1/vector_stores", limit=limit)
    show(page, columns, as_json=as_json, nothing="no vector stores; `heliu vector-stores create` makes one")


@app.command()
def search(
    store: StoreId,
    query: Annotated[str, typer.Argument(help="What is looked for.")],
    limit: Annotated[int, typer.Option(min=1, max=50)] = 5,
    min_score: Annotated[float, typer.Option(min=0, max=1)] = 0.0,
    where: Annotated[
        list[str] | None, typer.Option("--where", help="NAME=VALUE that a file must have; many times.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The best chunks, the best first."""
    body: dict[str, Any] = {"query": query, "max_num_results": limit}
    if min_score:
        body["ranking_options"] = {"score_threshold": min_score}
    wanted = [{"type": "eq", "key": key, "value": value} for key, value in _attributes(where or []).items()]
    if wanted:
        body["filters"] = {"type": "and", "filters": wanted}
    with closing(connect()) as client:
        page = client.post(path_of("vector_stores", store, "search"), body)
    columns = [
        ("score", lambda row: f"{row['score']:.3f}"),
        field("filename"),
        ("text", lambda row: _short(row["content"])),
    ]
    show(page, columns, as_json=as_json, nothing="nothing found")
    if not as_json:
        err.print(f"ranked by {' and '.join(page['ranked_by'])}")


@app.command()
def remove(
    store: StoreId,
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="Only this file of it.")] = None,
    as_json: Json = False,
) -> None:
    """Delete a store, or take one file out of it; uploads stay."""
    parts = ["vector_stores", store, *(["files", file] if file else [])]
    with closing(connect()) as client:
        show_one(client.delete(path_of(*parts)), as_json=as_json)


def _uploaded(client: Client, given: str) -> str:
    path = Path(given)
    if path.is_file():
        return str(client.upload(path, "user_data")["id"])
    if given.startswith("file-"):
        return given
    raise InvalidInput(f"{given!r} is neither a file here nor the id of an upload (file-...)", param="FILE")


def _attributes(pairs: Sequence[str]) -> dict[str, Any]:
    """`year=2026` is a number, `draft=true` a boolean, all else a text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidInput(f"an attribute is NAME=VALUE, got {pair!r}", param="--attribute")
        found[name] = _value(value)
    return found


def _value(text: str) -> str | bool | float:
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _short(content: Sequence[Mapping[str, Any]]) -> str:
    text = " ".join("".join(part["text"] for part in content).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
