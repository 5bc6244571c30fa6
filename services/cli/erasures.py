"""`heliu data erase` and its kin: a subject's rows found everywhere, buried, and left out of what is built anew."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any

import typer

from services.cli import watch
from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, show, show_one, text, when
from services.cli.output import err, out, print_json


def erase(
    row: Annotated[list[str] | None, typer.Option("--row", help="Id of a row; may be given again.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of the source that knows the subject.")] = None,
    value: Annotated[str | None, typer.Option(help="The subject's value of that column, exactly.")] = None,
    do: Annotated[bool, typer.Option("--do", help="Bury the rows; only look for them without it.")] = False,
    as_json: Json = False,
) -> None:
    """Find a subject's rows in all versions and files; with --do, keep them out of all that is built from now on."""
    body: dict[str, Any] = {"dry_run": not do}
    body |= {"row_ids": row} if row else {}
    body |= {name: given for name, given in (("column", column), ("value", value)) if given is not None}
    with closing(connect()) as client:
        result = watch.finish(client, client.post("/v1/erasures", body)["id"])
    if as_json:
        print_json(result)
        return
    out.print(f"{result['rows']} rows" + (" (dry run: nothing was changed)" if result["dry_run"] else ""))
    for version in result["versions"]:
        names = ", ".join(map(text, version["datasets"]))
        state = ", current" if version["current"] else ""
        out.print(f"  version {version['id']}  ({names}{state}): {version['rows']} rows")
    for model in result["models"]:
        out.print(f"  model {text(model)}")
    for file in result["files"]:
        out.print(f"  file {file['id']}  ({text(file['filename'])}): {file['rows']} rows; delete it yourself")
    for file in result["unread_files"]:
        err.print(f"not read: {file['id']} ({text(file['filename'])}): {text(file['reason'])}")
    if result["running_builds"]:
        err.print(
            f"builds were running: {', '.join(result['running_builds'])}; ask again when they have ended"
        )
    if not result["dry_run"]:
        err.print(f"`heliu data rebuild {result['erasure_id']}` builds the current versions anew")


def erasures(limit: Annotated[int, typer.Option(min=1, max=100)] = 20, as_json: Json = False) -> None:
    """The newest erasures."""
    columns = [
        field("id"),
        when("created_at"),
        field("rows"),
        ("versions", lambda row: len(row["versions"])),
        ("models", lambda row: len(row["models"])),
    ]
    with closing(connect()) as client:
        show(client.get("/v1/erasures", limit=limit), columns, as_json=as_json, nothing="no erasures")


def rebuild(
    erasure: Annotated[str, typer.Argument(metavar="ERASURE")],
    wait: Annotated[bool, typer.Option(help="Wait for the versions.")] = True,
    as_json: Json = False,
) -> None:
    """Build the current versions that an erasure flagged anew, without its rows."""
    with closing(connect()) as client:
        jobs = client.post(path_of("erasures", erasure, "rebuild"))["data"]
        done = [watch.finish(client, job["id"]) if wait else job for job in jobs]
    if as_json:
        print_json({"object": "list", "data": done})
        return
    for one in done:
        show_one(one, as_json=False)
