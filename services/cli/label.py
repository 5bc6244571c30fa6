"""`heliu label`: projects that people label, from items to a dataset version."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import watch
from services.cli.client import Client, connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, show, show_one, text, when
from services.cli.output import err, out, print_json
from shared.errors import InvalidInput

app = typer.Typer(help="Have people label data, and build versions of it.", no_args_is_help=True)
project_app = typer.Typer(help="Labelling projects.", no_args_is_help=True)
labeller_app = typer.Typer(help="People who label in a project.", no_args_is_help=True)
app.add_typer(project_app, name="project")
app.add_typer(labeller_app, name="labeller")

Project = Annotated[str, typer.Argument(metavar="PROJECT", help="Its name or id.")]
Limit = Annotated[int, typer.Option(min=1, max=100)]
Wait = Annotated[bool, typer.Option(help="Wait for the end.")]
Method = Annotated[str, typer.Option(help="adjudicated, majority or dawid_skene.")]
Weak = Annotated[
    float | None, typer.Option(help="Fill the rest from labelling functions, at this probability or more.")
]
Source = Annotated[
    Path | None, typer.Option("--file", help="CSV, JSONL or Parquet that the items come from.")
]
SpecFile = Annotated[Path | None, typer.Option(help="JSON file with further settings, such as fields.")]


@project_app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    task: Annotated[str, typer.Option(help="classification, preference, answer, spans or text.")],
    labels: Annotated[str, typer.Option(help="The labels, with commas between.")] = "",
    file: Source = None,
    version: Annotated[str | None, typer.Option(help="Dataset version that the items come from.")] = None,
    multiple: Annotated[bool, typer.Option("--multiple", help="More than one label an item.")] = False,
    guidelines: Annotated[Path | None, typer.Option(help="Text file that labellers see.")] = None,
    per_item: Annotated[int, typer.Option(min=1, max=20, help="People who label each item.")] = 1,
    agreement: Annotated[float, typer.Option(help="Below it somebody else decides, 0 to 1.")] = 1.0,
    gold_share: Annotated[float, typer.Option(help="Share of known items among the others.")] = 0.0,
    spec: SpecFile = None,
    as_json: Json = False,
) -> None:
    """Make a project, and bring its items in."""
    body: dict[str, Any] = {
        **_object(spec, "--spec"),
        "name": name,
        "task": task,
        "labels": [one.strip() for one in labels.split(",") if one.strip()],
        "multiple": multiple,
        "labels_per_item": per_item,
        "agreement": agreement,
        "gold_share": gold_share,
        "guidelines": _read(guidelines, "--guidelines") if guidelines is not None else "",
    }
    with closing(connect()) as client:
        if file is not None:
            body["file_id"] = _upload(client, file)
        if version is not None:
            body["version_id"] = version
        made = client.post("/v1/labelling/projects", body)
        told = watch.finish(client, made["job"]["id"]) if made["job"] else {}
        shown = client.get(_path(made["id"]))
    if as_json:
        print_json({**shown, "import": told})
        return
    show_one(
        {**_short(shown), **{key: told[key] for key in ("added", "unusable") if key in told}}, as_json=False
    )
    for reason in told.get("reasons", ()):
        err.print(text(reason))


@project_app.command("list")
def list_projects(limit: Limit = 20, as_json: Json = False) -> None:
    """The newest projects."""
    columns = [field("id"), field("name"), field("task"), field("labels_per_item"), when("created_at")]
    with closing(connect()) as client:
        page = client.get("/v1/labelling/projects", limit=limit)
    show(
        page,
        columns,
        as_json=as_json,
        nothing="no labelling projects; `heliu label project create` makes one",
    )


@project_app.command("show")
def show_project(project: Project, as_json: Json = False) -> None:
    """A project and how far it is."""
    with closing(connect()) as client:
        found = client.get(_path(project))
    show_one(found if as_json else _short(found), as_json=as_json)


@project_app.command("remove")
def remove(project: Project, as_json: Json = False) -> None:
    """Remove a project; its tokens are good for nothing from then on."""
    with closing(connect()) as client:
        show_one(client.delete(_path(project)), as_json=as_json)


@labeller_app.command("add")
def add_labeller(
    project: Project,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    adjudicates: Annotated[
        bool, typer.Option("--adjudicates", help="Decides where others disagree.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let a person label; the token is shown this once."""
    with closing(connect()) as client:
        made = client.post(_path(project, "labellers"), {"name": name, "adjudicates": adjudicates})
        made["page"] = client.base_url + made["page"]
    show_one(made, as_json=as_json)


@labeller_app.command("list")
def list_labellers(project: Project, limit: Limit = 20, as_json: Json = False) -> None:
    """Who labels, and how much each has done."""
    columns = [
        field("id"),
        field("name"),
        ("adjudicates", lambda row: "yes" if row["adjudicates"] else ""),
        field("labelled"),
        field("skipped"),
        field("adjudicated"),
        ("state", lambda row: "revoked" if row["revoked_at"] else ""),
    ]
    with closing(connect()) as client:
        page = client.get(_path(project, "labellers"), limit=limit)
    show(page, columns, as_json=as_json, nothing="nobody yet; `heliu label labeller add` adds one")


@labeller_app.command("revoke")
def revoke(project: Project, labeller_id: str, as_json: Json = False) -> None:
    """Take a token back; what the person said stays."""
    with closing(connect()) as client:
        show_one(client.delete(_path(project, "labellers", labeller_id)), as_json=as_json)


@app.command("import")
def import_items(
    project: Project,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON of Label Studio, or rows with --rows.")],
    rows: Annotated[bool, typer.Option("--rows", help="CSV, JSONL or Parquet instead.")] = False,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Bring items in, those of Label Studio with their annotations."""
    with closing(connect()) as client:
        body = {"file_id": _upload(client, file), "format": "file" if rows else "label_studio"}
        watch.answer(client, client.post(_path(project, "import"), body), wait=wait, as_json=as_json)


@app.command()
def export(
    project: Project,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where the labels go.")],
    method: Method = "adjudicated",
    label_studio: Annotated[
        bool, typer.Option("--label-studio", help="JSON as Label Studio reads it.")
    ] = False,
    weak: Weak = None,
    as_json: Json = False,
) -> None:
    """Take the labels out as a file."""
    body = {"method": method, "format": "label_studio" if label_studio else "rows", **_weak(weak)}
    with closing(connect()) as client:
        told = watch.finish(client, client.post(_path(project, "export"), body)["id"])
        with target.open("wb") as file:
            for chunk in client.download(path_of("files", told["file_id"], "content")):
                file.write(chunk)
    show_one({**told, "written": str(target)}, as_json=as_json)


@app.command()
def build(
    project: Project,
    dataset: Annotated[str, typer.Option(help="The dataset; made at its first use.")],
    method: Method = "adjudicated",
    weak: Weak = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON recipe; inferred without it.")] = None,
    as_json: Json = False,
) -> None:
    """Build a version of a dataset from the labels."""
    body = {"dataset": dataset, "method": method, **_weak(weak)}
    if recipe is not None:
        body["recipe"] = _object(recipe, "--recipe")
    with closing(connect()) as client:
        told = watch.finish(client, client.post(_path(project, "build"), body)["id"])
        built = watch.finish(client, told["build_job_id"])
    show_one({"file_id": told["file_id"], "labels": told["labels"], **built}, as_json=as_json)


@app.command()
def agreement(project: Project, as_json: Json = False) -> None:
    """How far the labellers agree, each pair of them, and each on known items."""
    with closing(connect()) as client:
        told = client.get(_path(project, "agreement"))
    if as_json:
        print_json(told)
        return
    show_one({key: told[key] for key in ("measure", "value", "observed", "items", "labels")}, as_json=False)
    for pair in told["pairs"]:
        measured = pair.get("cohen_kappa", pair.get("span_f1"))
        out.print(text(f"{' and '.join(pair['labellers'])}: {_number(measured)} over {pair['items']} items"))
    for one in told["gold"]:
        out.print(
            text(f"{one['labeller']}: right in {_number(one['accuracy'])} of {one['items']} known items")
        )


@app.command()
def suspects(
    project: Project,
    look: Annotated[bool, typer.Option(help="Look anew, and not only list what was found.")] = True,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Labels that a classifier doubts, the least likely first."""
    columns = [
        field("id"),
        ("quality", lambda row: _number(row["quality"])),
        field("given"),
        field("guessed"),
        ("text", lambda row: str(row["data"].get("text") or row["data"].get("messages"))[:60]),
    ]
    with closing(connect()) as client:
        if look:
            watch.finish(client, client.post(_path(project, "suspects"))["id"])
        page = client.get(_path(project, "suspects"), limit=limit)
    show(page, columns, as_json=as_json, nothing="no label is in doubt")


@app.command()
def pick(
    project: Project,
    probabilities: Annotated[Path | None, typer.Option(help="JSONL of id and probabilities.")] = None,
    as_json: Json = False,
) -> None:
    """Put the items first that the labels so far say least about."""
    with closing(connect()) as client:
        body = {"file_id": _upload(client, probabilities)} if probabilities is not None else {}
        show_one(watch.finish(client, client.post(_path(project, "picks"), body)["id"]), as_json=as_json)


@app.command()
def functions(
    project: Project,
    file: Annotated[Path, typer.Argument(metavar="FILE", help='JSON of {"functions": [...]}.')],
    as_json: Json = False,
) -> None:
    """Apply labelling functions; a person's label is never touched."""
    with closing(connect()) as client:
        told = watch.finish(client, client.post(_path(project, "functions"), _object(file, "FILE"))["id"])
    if as_json:
        print_json(told)
        return
    shares = ("coverage", "overlap", "conflict", "accuracy")
    columns = [field("name"), *((name, lambda row, name=name: _number(row[name])) for name in shares)]
    show({"data": told["functions"]}, columns, as_json=False, nothing="no functions")


def _path(project: str, *parts: str) -> str:
    return path_of("labelling", "projects", project, *parts)


def _short(project: dict[str, Any]) -> dict[str, Any]:
    shown = {key: project[key] for key in ("id", "name", "task", "page", "labels_per_item", "agreement")}
    return {**shown, "labels": ", ".join(project["labels"]), **project["progress"]}


def _upload(client: Client, path: Path) -> str:
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file", param="FILE")
    return str(client.upload(path, "user_data")["id"])


def _read(path: Path, param: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{param} {str(path)!r} cannot be read: {exc}", param=param) from exc


def _object(path: Path | None, param: str) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = json.loads(_read(path, param))
    except ValueError as exc:
        raise InvalidInput(f"{param} {str(path)!r} is not JSON: {exc}", param=param) from exc
    if not isinstance(found, dict):
        raise InvalidInput(f"{param} {str(path)!r} must hold a JSON object", param=param)
    return found


def _weak(weak: float | None) -> dict[str, float]:
    return {"weak": weak} if weak is not None else {}


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
