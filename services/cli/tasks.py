"""`heliu tasks`: make tasks, give them versions and callers, and run them."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from services.cli.client import Client, connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, moment, show, show_one, text
from services.cli.output import err, out, print_json
from services.cli.task_values import values
from shared.errors import HeliuError, InvalidInput

app = typer.Typer(help="Make, compare, route and run tasks.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME")]
Limit = Annotated[int, typer.Option(min=1, max=100)]
MOST_BYTES = 1024 * 1024


@app.command("list")
def list_tasks(limit: Limit = 50, as_json: Json = False) -> None:
    """The newest tasks, and which of their versions callers get."""
    columns = [
        field("name"),
        ("versions", lambda row: row["latest_version"]),
        ("callers get", _shares),
        ("created", lambda row: moment(row["created_at"])),
        ("description", lambda row: row["description"] or ""),
    ]
    with closing(connect()) as client:
        show(client.get("/v1/tasks", limit=limit), columns, as_json=as_json, nothing="no tasks")


@app.command("show")
def show_task(name: Name, as_json: Json = False) -> None:
    """A task, and the version that its callers get (NAME@VERSION shows another)."""
    with closing(connect()) as client:
        task = client.get(path_of("tasks", name.partition("@")[0]))
        version = _version(client, name, task)
    if as_json:
        print_json({**task, "shown_version": version})
        return
    show_one(
        {k: v for k, v in task.items() if k != "weights"} | {"callers get": _shares(task)}, as_json=False
    )
    out.print(f"\nversion {version['version']}:")
    out.print(text_of(version["spec"]))


@app.command()
def add(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="YAML or JSON: name, description, note, spec.")
    ],
    name: Annotated[str | None, typer.Option(help="Instead of the file's name.")] = None,
    model: Annotated[str | None, typer.Option(help="Instead of the file's model.")] = None,
    activate: Annotated[
        bool, typer.Option("--activate", help="Send all callers to the new version.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a task, or add a version to the one of this name."""
    body = _read(path)
    body["name"] = name or body.get("name")
    if not body["name"]:
        raise InvalidInput(f"{path} has no name; write `name: ...` in it, or give --name", param="name")
    if model is not None:
        body["spec"] = {**_spec(body, path), "model": model}
    with closing(connect()) as client:
        made = _make_or_add(client, body, activate=activate)
    if as_json:
        print_json(made)
    else:
        out.print(made["model"])


@app.command("install-ready")
def install_ready(
    model: Annotated[str, typer.Option(help="The model that they run on.")],
    only: Annotated[list[str] | None, typer.Option(help="This one alone; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Make the tasks that ship with the platform; those that are there already stay as they are."""
    done = []
    with closing(connect()) as client:
        ready = client.get("/v1/ready_tasks")["data"]
        for name in only or ():
            if name not in [task["name"] for task in ready]:
                raise InvalidInput(
                    f"no ready task is called {name!r}; there are {', '.join(t['name'] for t in ready)}",
                    param="only",
                )
        for task in ready:
            if only and task["name"] not in only:
                continue
            try:
                client.post("/v1/tasks", {**task, "spec": {**task["spec"], "model": model}})
                done.append({"name": task["name"], "result": "made"})
            except HeliuError as exc:
                if exc.code != "already_exists":
                    raise
                done.append({"name": task["name"], "result": "there already"})
    columns = [field("name"), field("result")]
    show({"object": "list", "data": done}, columns, as_json=as_json, nothing="nothing to install")


@app.command()
def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="NAME, or NAME@VERSION.")],
    message: Annotated[str | None, typer.Argument(help="The task's input; or give all by --set.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="A variable; V may be @FILE; lists: repeat, or JSON."),
    ] = None,
    user: Annotated[str | None, typer.Option(help="Whose version it is, where callers are split.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show the answer as it is made.")] = False,
    as_json: Json = False,
) -> None:
    """Ask a task; the answer is on stdout, its version on stderr."""
    with closing(connect()) as client:
        task = client.get(path_of("tasks", name.partition("@")[0]))
        given = values(_version(client, name, task)["spec"].get("variables", {}), sets or [])
        body: dict[str, Any] = {"model": f"task:{name}", "variables": given}
        body["messages"] = [{"role": "user", "content": message}] if message is not None else []
        if user is not None:
            body["user"] = user
        if stream and not as_json:
            _stream(client, body)
            return
        answer = client.post("/v1/chat/completions", body)
    if as_json:
        print_json(answer)
        return
    (choice,) = answer["choices"]
    sys.stdout.write((choice["message"]["content"] or "") + "\n")
    _ended(answer["model"], choice["finish_reason"])


@app.command()
def versions(name: Name, limit: Limit = 20, as_json: Json = False) -> None:
    """The versions of a task: their share of the callers, and what they have answered."""
    columns = [
        field("version"),
        ("share", lambda row: f"{row['share']:.1%}"),
        ("requests", lambda row: row["usage"]["requests"]),
        ("errors", lambda row: row["usage"]["errors"]),
        ("refused", lambda row: row["usage"]["refused"]),
        ("tokens", lambda row: row["usage"]["prompt_tokens"] + row["usage"]["completion_tokens"]),
        ("on", lambda row: row["spec"]["model"]),
        ("created", lambda row: moment(row["created_at"])),
        ("note", lambda row: row["note"] or ""),
    ]
    with closing(connect()) as client:
        page = client.get(path_of("tasks", name, "versions"), limit=limit)
    show(page, columns, as_json=as_json, nothing="no versions")


@app.command()
def diff(
    name: Name,
    before: Annotated[int | None, typer.Argument(help="The one before AFTER without it.")] = None,
    after: Annotated[int | None, typer.Argument(help="The latest without it.")] = None,
    as_json: Json = False,
) -> None:
    """What is different between two versions."""
    with closing(connect()) as client:
        found = client.get(path_of("tasks", name, "diff"), **{"from": before, "to": after})
    if as_json:
        print_json(found)
        return
    for change in found["changes"]:
        if "lines" in change:
            out.print(f"{change['place']}:")
            for line in change["lines"][2:]:
                out.print(f"  {text(line)}")
        else:
            sides = [json.dumps(change[side], ensure_ascii=False) for side in ("before", "after")]
            out.print(f"{change['place']}: {text(sides[0])} -> {text(sides[1])}")
    if not found["changes"]:
        err.print(f"versions {found['from']} and {found['to']} say the same")


@app.command()
def activate(name: Name, version: int, as_json: Json = False) -> None:
    """Send all callers to a version."""
    with closing(connect()) as client:
        _routed(client.post(path_of("tasks", name, "activate"), {"version": version}), as_json=as_json)


@app.command()
def split(
    name: Name,
    weights: Annotated[list[str], typer.Argument(metavar="VERSION=WEIGHT...", help="Such as 1=90 2=10.")],
    as_json: Json = False,
) -> None:
    """Share the callers between versions by weight."""
    shares: dict[str, int] = {}
    for word in weights:
        version, _, weight = word.partition("=")
        if not (version.isdecimal() and weight.isdecimal()) or version in shares:
            raise InvalidInput(f"{word!r} is no VERSION=WEIGHT of its own, such as 2=10", param="weights")
        shares[version] = int(weight)
    with closing(connect()) as client:
        _routed(client.post(path_of("tasks", name, "split"), {"weights": shares}), as_json=as_json)


@app.command()
def rollback(name: Name, as_json: Json = False) -> None:
    """Undo the newest activation or split; once more goes one further back."""
    with closing(connect()) as client:
        _routed(client.post(path_of("tasks", name, "rollback")), as_json=as_json)


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Take a task's name away at once."""
    with closing(connect()) as client:
        show_one(client.delete(path_of("tasks", name)), as_json=as_json)


def text_of(spec: dict[str, Any]) -> str:
    """A spec as a person edits it."""
    shown = yaml.safe_dump(spec, allow_unicode=True, sort_keys=False, width=100)
    return "\n".join(text(line) for line in shown.splitlines())


def _shares(task: Any) -> str:
    weights: dict[str, int] = task["weights"]
    total = sum(weights.values())
    return ", ".join(f"{version}: {weight / total:.4g}" for version, weight in weights.items())


def _version(client: Client, name: str, task: dict[str, Any]) -> dict[str, Any]:
    """The version that NAME@VERSION names; without one, the one that most callers get."""
    plain, at, number = name.partition("@")
    if not at:
        number = max(task["weights"], key=lambda version: task["weights"][version])
    return client.get(path_of("tasks", plain, "versions", number))


def _make_or_add(client: Client, body: dict[str, Any], *, activate: bool) -> dict[str, Any]:
    try:
        return client.post("/v1/tasks", body)
    except HeliuError as exc:
        if exc.code != "already_exists":
            raise
    added = {name: value for name, value in body.items() if name in ("spec", "note")}
    return client.post(path_of("tasks", body["name"], "versions"), {**added, "activate": activate})


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InvalidInput(f"{path} has more than {MOST_BYTES} bytes", param="FILE")
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InvalidInput(f"{path} cannot be read: {exc.strerror}", param="FILE") from exc
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidInput(f"{path} is neither YAML nor JSON: {exc}", param="FILE") from exc
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} must hold name, description and spec", param="FILE")
    return found


def _spec(body: dict[str, Any], path: Path) -> dict[str, Any]:
    spec = body.get("spec")
    if not isinstance(spec, dict):
        raise InvalidInput(f"{path} has no spec", param="spec")
    return spec


def _routed(task: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(task)
    else:
        out.print(f"{text(task['model'])}  {_shares(task)}")


def _stream(client: Client, body: dict[str, Any]) -> None:
    model, reason = "", None
    for chunk in client.stream("/v1/chat/completions", {**body, "stream": True}, on_headers=lambda _: None):
        model = chunk["model"]
        for choice in chunk["choices"]:
            sys.stdout.write(choice["delta"].get("content") or "")
            sys.stdout.flush()
            reason = choice["finish_reason"] or reason
    sys.stdout.write("\n")
    _ended(model, reason)


def _ended(model: str, reason: str | None) -> None:
    err.print(text(model), style="dim")
    if reason == "content_filter":
        err.print("an output guard of the task ended this answer", style="yellow")
    elif reason == "length":
        err.print("the answer was cut at its most tokens", style="yellow")
