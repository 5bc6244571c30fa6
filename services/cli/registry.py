"""`heliu registry`: register models, ask their gates, promote them, and go back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, moment, show, show_one, text
from services.cli.output import err, out, print_json
from shared.errors import InvalidInput

app = typer.Typer(help="Register models, gate, promote and roll them back.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME")]
Version = Annotated[int, typer.Argument(metavar="VERSION", min=1)]
Reason = Annotated[str | None, typer.Option(help="Why, for the history.")]
Limit = Annotated[int, typer.Option(min=1, max=100)]
Gates = Annotated[
    Path | None, typer.Option(metavar="FILE", help="YAML or JSON: eval_id, margin, min_items, ...")
]
Rule = Annotated[
    Path | None,
    typer.Option("--canary", metavar="FILE", help="YAML or JSON: share, stop_when: {error_rate_above, ...}."),
]


@app.command()
def create(
    name: Name,
    description: Annotated[str | None, typer.Option()] = None,
    gates: Gates = None,
    rule: Rule = None,
    approval: Annotated[bool, typer.Option("--approval", help="Promotions wait for a second key.")] = False,
    as_json: Json = False,
) -> None:
    """Register a name; it answers as registry:NAME once a version is in production."""
    body: dict[str, Any] = {"name": name, "approval": "required" if approval else "none"}
    if description is not None:
        body["description"] = description
    if gates is not None:
        body["gates"] = _read(gates)
    if rule is not None:
        body["canary_rule"] = _read(rule)
    with closing(connect()) as client:
        shown(client.post("/v1/registry", body), as_json=as_json)


@app.command()
def change(
    name: Name,
    description: Annotated[str | None, typer.Option()] = None,
    gates: Gates = None,
    approval: Annotated[bool | None, typer.Option("--approval/--no-approval")] = None,
    rule: Rule = None,
    no_rule: Annotated[bool, typer.Option("--no-canary", help="No canary is stopped any more.")] = False,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Change description, gates, approval, or when a canary is stopped."""
    if rule is not None and no_rule:
        raise InvalidInput("give --canary or --no-canary, one of both", param="--canary")
    body: dict[str, Any] = {"description": description, "reason": reason}
    body["gates"] = _read(gates) if gates is not None else None
    body["approval"] = None if approval is None else "required" if approval else "none"
    body = given(body)
    if rule is not None or no_rule:
        body["canary_rule"] = _read(rule) if rule is not None else None
    with closing(connect()) as client:
        answer = client.post(path_of("registry", name), body)
    shown(answer, as_json=as_json)


@app.command()
def add(
    name: Name,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    note: Annotated[str | None, typer.Option()] = None,
    stage: Annotated[bool, typer.Option("--stage", help="Put it up for promotion at once.")] = False,
    as_json: Json = False,
) -> None:
    """Make a model the next version of a name."""
    with closing(connect()) as client:
        made = client.post(path_of("registry", name, "versions"), given({"model": model, "note": note}))
        number = str(made["version"])
        if stage and made["stage"] == "candidate":
            client.post(path_of("registry", name, "versions", number, "stage"), {})
            made = client.get(path_of("registry", name, "versions", number))
    if as_json:
        print_json(made)
    else:
        out.print(f"{text(made['model'])}  {made['stage']}")


@app.command("list")
def list_registered(limit: Limit = 50, as_json: Json = False) -> None:
    """The newest registered models, and what answers."""
    columns = [
        field("name"),
        ("versions", lambda row: row["latest_version"] or 0),
        ("production", lambda row: row["production_version"] or ""),
        ("canary", canary_of),
        ("approval", lambda row: "" if row["approval"] == "none" else row["approval"]),
        ("moved", lambda row: moment(row["moved_at"])),
        ("description", lambda row: row["description"] or ""),
    ]
    with closing(connect()) as client:
        page = client.get("/v1/registry", limit=limit)
    show(page, columns, as_json=as_json, nothing="no registered models")


@app.command("show")
def show_registered(name: Name, limit: Limit = 20, as_json: Json = False) -> None:
    """A registered model and its versions."""
    columns = [
        field("version"),
        field("stage"),
        ("share", lambda row: f"{row['share']:.1%}"),
        field("model_id"),
        ("requests", lambda row: row["usage"]["requests"]),
        ("errors", lambda row: row["usage"]["errors"]),
        ("created", lambda row: moment(row["created_at"])),
        ("note", lambda row: row["note"] or ""),
    ]
    with closing(connect()) as client:
        found = client.get(path_of("registry", name))
        versions = client.get(path_of("registry", name, "versions"), limit=limit)
        waits = client.get(path_of("registry", name, "requests"), open="true")["data"]
    if as_json:
        print_json({**found, "versions": versions["data"], "requests": waits})
        return
    told = {**found, "gates": None, "canary": canary_of(found), "created_at": moment(found["created_at"])}
    show_one({**told, "moved_at": moment(found["moved_at"])}, as_json=False)
    out.print("\ngates:")
    for name_, value in found["gates"].items():
        if value is not None:
            out.print(f"  {name_}: {text(value)}")
    out.print()
    show(versions, columns, as_json=False, nothing="no versions")
    for request in waits:
        asked = f"{request['action']} {request['version'] or ''}".strip()
        err.print(f"{request['id']} waits for a second key: {asked}", style="yellow")


@app.command()
def history(name: Name, limit: Limit = 50, as_json: Json = False) -> None:
    """Who answered when, who changed that, and by which decision."""
    columns = [
        ("when", lambda row: moment(row["created_at"])),
        field("action"),
        ("version", lambda row: row["version"] or ""),
        ("production", lambda row: row["production"] or ""),
        ("canary", canary_of),
        ("by", lambda row: row["created_by"] or "local"),
        ("approved by", lambda row: row["approved_by"] or ""),
        ("decision", lambda row: row["decision"] or ""),
        ("why", lambda row: row["reason"] or ""),
    ]
    with closing(connect()) as client:
        page = client.get(path_of("registry", name, "history"), limit=limit)
    show(page, columns, as_json=as_json, nothing="nothing has happened yet")


@app.command()
def card(
    name: Annotated[str, typer.Argument(metavar="NAME", help="NAME@VERSION, or NAME for production.")],
    as_json: Json = False,
) -> None:
    """The model card of a version, as Markdown."""
    plain, _, number = name.partition("@")
    with closing(connect()) as client:
        if not number:
            number = str(client.get(path_of("registry", plain))["production_version"] or "")
        if not number:
            raise InvalidInput(f"{plain} has nothing in production; write {plain}@VERSION", param="NAME")
        path = path_of("registry", plain, "versions", number, "card")
        if as_json:
            print_json(client.get(path))
            return
        sys.stdout.write(b"".join(client.download(f"{path}?format=md")).decode())


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Take a registered name away at once; its models stay."""
    with closing(connect()) as client:
        show_one(client.delete(path_of("registry", name)), as_json=as_json)


def given(body: Mapping[str, Any]) -> dict[str, Any]:
    """What was said on the command line."""
    return {name: value for name, value in body.items() if value is not None}


def shown(answer: dict[str, Any], *, as_json: bool) -> None:
    """The registered model as it is now, or the request that waits."""
    if as_json:
        print_json(answer)
    elif answer["object"] == "registered_model.request":
        out.print(
            f"{answer['id']} waits for a second key: heliu registry approve {text(answer['name'])} {answer['id']}"
        )
    else:
        canary_ = canary_of(answer)
        production = answer["production_version"]
        told = f"production {production}" if production else "nothing in production"
        out.print(f"{text(answer['model'])}  {told}{f', canary {canary_}' if canary_ else ''}")


def canary_of(row: Mapping[str, Any]) -> str:
    """Version and share; empty where there is none."""
    told = row["canary"]
    return f"{told['version']} ({told['share']:.4g})" if told else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InvalidInput(f"{path} cannot be read: {exc.strerror}", param="FILE") from exc
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidInput(f"{path} is neither YAML nor JSON: {exc}", param="FILE") from exc
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} must hold the names and values of gates", param="FILE")
    return found
