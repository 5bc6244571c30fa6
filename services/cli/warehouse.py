"""`heliu data query`, `diff`, `tag`, `tags`, `export`, `retention` and `gc`: what is asked of stored versions."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from services.cli import watch
from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, show, show_one, text, when
from services.cli.output import err, out, print_json

Name = Annotated[str, typer.Argument(metavar="DATASET")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="Its id, or a tag.")]


def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT; a dataset's name is a table.")],
    rows: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many rows.")] = 1000,
    seconds: Annotated[int, typer.Option(min=1, max=60, help="At most so long.")] = 10,
    as_json: Json = False,
) -> None:
    """Ask the versions of your datasets with SQL."""
    with closing(connect()) as client:
        told = client.post("/v1/sql", {"sql": sql, "max_rows": rows, "max_seconds": seconds})
    if as_json:
        print_json(told)
        return
    names = [column["name"] for column in told["columns"]]
    # Two columns may have one name: they are told apart by their place.
    columns = [(name, lambda row, n=n: row[n]) for n, name in enumerate(names)]
    page = {"data": [dict(enumerate(row)) for row in told["rows"]]}
    show(page, columns, as_json=False, nothing="no rows")
    if told["truncated"]:
        err.print(f"cut at {len(told['rows'])} rows; --rows shows more")


def diff(
    name: Name,
    before: Annotated[str, typer.Argument(metavar="FROM", help="A version or a tag.")],
    after: Annotated[str, typer.Argument(metavar="TO", help="A version or a tag.")],
    key: Annotated[str | None, typer.Option(help="What makes rows the same: row or id.")] = None,
    as_json: Json = False,
) -> None:
    """What is different between two versions."""
    with closing(connect()) as client:
        asked: dict[str, Any] = {"from": before, "to": after, "key": key}
        told = client.get(path_of("datasets", name, "diff"), **asked)
    if as_json:
        print_json(told)
        return
    show_one({**told["counts"], "key": told["key"]}, as_json=False)
    for rule in told["rules"]:
        out.print(f"dropped by {text(rule['rule'])}: {rule['from']} -> {rule['to']}")
    for what, rows in told["samples"].items():
        for row in rows[:3]:
            out.print(f"{what}: {text(row)}")


def tags(name: Name, as_json: Json = False) -> None:
    """Named pointers at the versions of a dataset."""
    columns = [field("name"), field("version"), field("moves"), when("moved_at")]
    with closing(connect()) as client:
        page = client.get(path_of("datasets", name, "tags"), limit=100)
    show(page, columns, as_json=as_json, nothing="no tags; `heliu data tag` makes one")


def tag(
    name: Name,
    tag: Annotated[str, typer.Argument(metavar="TAG")],
    version: Annotated[str, typer.Argument(metavar="VERSION")],
    expected: Annotated[
        str | None, typer.Option("--from", help="Where it stands now; nowhere without it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Move a tag to a version; refused where it has been moved since you looked."""
    path = path_of("datasets", name, "tags", tag)
    with closing(connect()) as client:
        show_one(
            client.request("PUT", path, json={"version": version, "expected": expected}), as_json=as_json
        )


def untag(
    name: Name,
    tag: Annotated[str, typer.Argument(metavar="TAG")],
    expected: Annotated[str, typer.Option("--from", help="Where it stands now.")],
    as_json: Json = False,
) -> None:
    """Remove a tag."""
    path = path_of("datasets", name, "tags", tag)
    with closing(connect()) as client:
        show_one(client.delete(f"{path}?{urlencode({'expected': expected})}"), as_json=as_json)


def download(
    name: Name,
    version: Version,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    split: Annotated[str | None, typer.Option(help="train or validation.")] = None,
) -> None:
    """The rows of a version as JSONL."""
    path = path_of("datasets", name, "versions", version, "download")
    with closing(connect()) as client, output.open("wb") as target:
        for block in client.download(f"{path}?{urlencode({'split': split})}" if split else path):
            target.write(block)
    err.print(f"wrote {output}")


def export(
    name: Name,
    version: Version,
    format: Annotated[str, typer.Option(help="jsonl or parquet.")] = "parquet",
    split: Annotated[str | None, typer.Option(help="train or validation.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the file.")] = True,
    as_json: Json = False,
) -> None:
    """Make one file of a version, which stays among your files."""
    body = {"format": format, **({"split": split} if split else {})}
    with closing(connect()) as client:
        job = client.post(path_of("datasets", name, "versions", version, "export"), body)
        watch.answer(client, job, wait=wait, as_json=as_json)


def croissant(name: Name, version: Version) -> None:
    """A version as Croissant JSON-LD."""
    with closing(connect()) as client:
        print_json(client.get(path_of("datasets", name, "versions", version, "croissant")))


def retention(
    name: Name,
    keep_last: Annotated[int | None, typer.Option(min=1, help="Keep so many of the newest.")] = None,
    keep_days: Annotated[int, typer.Option(min=0, help="Keep all that are younger.")] = 0,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Keep every version.")] = False,
    as_json: Json = False,
) -> None:
    """Which versions are kept; without an option, look."""
    path = path_of("datasets", name, "retention")
    with closing(connect()) as client:
        if keep_all:
            told = client.delete(path)
        elif keep_last is not None:
            told = client.request("PUT", path, json={"keep_last": keep_last, "keep_days": keep_days})
        else:
            told = client.get(path)
    show_one(told, as_json=as_json)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run/--do", help="Only count what would go.")] = True,
    grace_hours: Annotated[float, typer.Option(min=1.0, help="Leave alone what is younger.")] = 24.0,
    as_json: Json = False,
) -> None:
    """Remove what nothing names any more. Needs an operator key."""
    with closing(connect(operator=True)) as client:
        job = client.post("/v1/artifacts/gc", {"dry_run": dry_run, "grace_hours": grace_hours})
        result = watch.finish(client, job["id"])
    if as_json:
        print_json(result)
        return
    show_one({name: value for name, value in result.items() if name != "shown"}, as_json=False)
