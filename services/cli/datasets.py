"""`heliu data`: from a file to a governed dataset version, and its report."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import operators, watch
from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, show, show_one, text, when
from services.cli.output import out, print_json
from shared.contracts.recipe_text import parse_recipe
from shared.errors import InvalidInput

app = typer.Typer(help="Govern data into versions, and look at them.", no_args_is_help=True)
app.command("operators")(operators.show_operators)

Name = Annotated[str, typer.Argument(metavar="DATASET")]


@app.command()
def build(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="CSV, JSONL or Parquet; or the id of a file that is there, file-..."
        ),
    ],
    name: Annotated[str, typer.Option(help="The dataset; made at its first use.")],
    recipe: Annotated[
        Path | None, typer.Option(help="YAML or JSON; inferred from the data without it.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the version.")] = True,
    as_json: Json = False,
) -> None:
    """Upload files and build a version of a dataset from their rows."""
    for path in paths:
        if not path.is_file() and not _is_id(path):
            raise InvalidInput(f"{path} is not a file", param="FILE")
    body: dict[str, Any] = {"name": name}
    if recipe is not None:
        # Checked here too, so that a mistyped recipe costs no upload.
        body["recipe"] = json.loads(parse_recipe(recipe.read_bytes()).canonical())
    with closing(connect()) as client:
        body["file_ids"] = [
            str(path) if _is_id(path) else client.upload(path, "user_data")["id"] for path in paths
        ]
        watch.answer(client, client.post("/v1/datasets", body), wait=wait, as_json=as_json)


def _is_id(path: Path) -> bool:
    """Whether it names an upload, and nothing on this machine."""
    return str(path).startswith("file-") and not path.exists()


@app.command("try")
def try_recipe(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="CSV, JSONL or Parquet.")],
    recipe: Annotated[
        Path | None, typer.Option(help="YAML or JSON; inferred from the data without it.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=10_000, help="How many of each file.")] = 1000,
    as_json: Json = False,
) -> None:
    """What a recipe would make of the first rows of files: kept, dropped and changed by each rule."""
    for path in paths:
        if not path.is_file():
            raise InvalidInput(f"{path} is not a file", param="FILE")
    body: dict[str, Any] = {"rows": rows}
    if recipe is not None:
        body["recipe"] = json.loads(parse_recipe(recipe.read_bytes()).canonical())
    with closing(connect()) as client:
        body["file_ids"] = [client.upload(path, "user_data")["id"] for path in paths]
        found = client.post("/v1/recipes/try", body)
    if as_json:
        print_json(found)
        return
    report = found["report"]
    show_one(
        {
            "mapping": json.dumps(
                {key: value for key, value in found["recipe"]["input"].items() if value}, ensure_ascii=False
            ),
            **{name: report[name] for name in ("rows_in", "rows_kept", "dropped", "changed")},
            "gate": "would pass" if report["gate"]["passed"] else "; ".join(report["gate"]["reasons"]),
        },
        as_json=False,
    )


@app.command("list")
def list_datasets(limit: Annotated[int, typer.Option(min=1, max=100)] = 20, as_json: Json = False) -> None:
    """The newest datasets."""
    columns = [field("name"), when("created_at"), ("version", lambda row: row["current_version"] or "")]
    with closing(connect()) as client:
        show(client.get("/v1/datasets", limit=limit), columns, as_json=as_json, nothing="no datasets")


@app.command("show")
def show_dataset(name: Name, as_json: Json = False) -> None:
    """A dataset and its versions."""
    columns = [
        field("id"),
        when("created_at"),
        field("rows"),
        field("train_rows"),
        field("validation_rows"),
        ("gate", lambda row: "passed" if row["gate_passed"] else "; ".join(row["gate"].get("reasons", []))),
    ]
    with closing(connect()) as client:
        dataset = client.get(path_of("datasets", name))
    if as_json:
        print_json(dataset)
        return
    show({"data": dataset["versions"]}, columns, as_json=False, nothing=f"{text(name)} has no version yet")


@app.command()
def report(
    name: Name,
    version: str,
    html: Annotated[Path | None, typer.Option(help="File to write it to as a page for a browser.")] = None,
    as_json: Json = False,
) -> None:
    """The quality report of a version: kept, dropped and changed by each rule, and drift from the version before."""
    with closing(connect()) as client:
        if html is not None:
            page = path_of("datasets", name, "versions", version, "report") + "?format=html"
            size = html.write_bytes(b"".join(client.download(page)))
            show_one({"file": str(html), "bytes": size}, as_json=as_json)
            return
        found = client.get(path_of("datasets", name, "versions", version))
    if as_json:
        print_json(found)
        return
    show_one({key: value for key, value in found.items() if key not in ("report", "drift")}, as_json=False)
    told = {"drift": found["drift"], **found["report"]}
    out.print(json.dumps(told, ensure_ascii=False, indent=2))
