"""`heliu sources`: systems that data is synced from; and `heliu data sync`."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from services.cli import watch
from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, show, show_one
from services.cli.output import err, print_json
from shared.contracts.recipe_text import parse_recipe
from shared.errors import InvalidInput

app = typer.Typer(help="Systems that data is synced from.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="SOURCE")]
Spec = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="YAML or JSON with connection, options, schedule and build."),
]
SecretFile = Annotated[
    Path | None, typer.Option(help="File with the credentials: JSON, or the password alone.")
]
SecretEnv = Annotated[str | None, typer.Option(help="Environment variable with the same.")]
Cron = Annotated[str | None, typer.Option(help="When to sync by itself, such as '30 2 * * *'.")]
Zone = Annotated[str, typer.Option(help="The time zone of --cron.")]
Test = Annotated[bool, typer.Option(help="Connect and look first.")]


@app.command()
def add(
    name: Name,
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML or JSON with connection and the rest.")],
    credentials_file: SecretFile = None,
    credentials_env: SecretEnv = None,
    cron: Cron = None,
    timezone: Zone = "UTC",
    test: Test = True,
    as_json: Json = False,
) -> None:
    """Add a source. Its credentials are sealed, and shown to nobody again."""
    body = {"name": name, **_body(file, credentials_file, credentials_env, cron, timezone), "test": test}
    with closing(connect()) as client:
        show_one(client.post("/v1/sources", body), as_json=as_json)


@app.command()
def change(
    name: Name,
    file: Spec = None,
    credentials_file: SecretFile = None,
    credentials_env: SecretEnv = None,
    cron: Cron = None,
    timezone: Zone = "UTC",
    no_schedule: Annotated[bool, typer.Option("--no-schedule", help="Sync by hand only.")] = False,
    test: Test = True,
    as_json: Json = False,
) -> None:
    """Change a source; what is not given stays."""
    body = {**_body(file, credentials_file, credentials_env, cron, timezone), "test": test}
    if no_schedule:
        body["schedule"] = None
    with closing(connect()) as client:
        show_one(client.post(path_of("sources", name), body), as_json=as_json)


@app.command("list")
def list_sources(limit: Annotated[int, typer.Option(min=1, max=100)] = 20, as_json: Json = False) -> None:
    """The newest sources; never with their credentials."""
    columns = [
        field("name"),
        field("kind"),
        ("rows", lambda row: row["rows"] if row["rows"] is not None else ""),
        ("quarantine", lambda row: row["quarantine_rows"] or ""),
        ("synced", lambda row: row["synced_at"] or "never"),
        ("schedule", lambda row: " ".join(row["schedule"].values()) if row["schedule"] else ""),
    ]
    with closing(connect()) as client:
        page = client.get("/v1/sources", limit=limit)
    show(page, columns, as_json=as_json, nothing="no sources; `heliu sources add` adds one")


@app.command("show")
def show_source(name: Name, as_json: Json = False) -> None:
    """A source, and the file that is its state."""
    with closing(connect()) as client:
        show_one(client.get(path_of("sources", name)), as_json=as_json)


@app.command("test")
def run_test(name: Name, as_json: Json = False) -> None:
    """Connect and look, and say what is wrong."""
    with closing(connect()) as client:
        show_one(client.post(path_of("sources", name, "test")), as_json=as_json)


@app.command()
def syncs(
    name: Name, limit: Annotated[int, typer.Option(min=1, max=100)] = 20, as_json: Json = False
) -> None:
    """The newest syncs of a source."""

    def count(what: str) -> Any:
        return what, lambda row: row["report"]["rows"][what] if row["report"] else ""

    columns = [field("id"), field("status"), *map(count, ("inserted", "updated", "deleted", "quarantined"))]
    with closing(connect()) as client:
        page = client.get(path_of("sources", name, "syncs"), limit=limit)
    show(page, columns, as_json=as_json, nothing="no syncs; `heliu data sync` makes one")


@app.command()
def quarantine(
    name: Name, limit: Annotated[int, typer.Option(min=1, max=500)] = 20, as_json: Json = False
) -> None:
    """Rows of a source that do not fit, and why."""
    columns = [field("key"), field("code"), field("reason"), field("row")]
    with closing(connect()) as client:
        page = client.get(path_of("sources", name, "quarantine"), limit=limit)
    show(page, columns, as_json=as_json, nothing="no rows are in quarantine")


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Take a source away, with its credentials; the files that it made stay."""
    with closing(connect()) as client:
        show_one(client.delete(path_of("sources", name)), as_json=as_json)


@app.command()
def reseal(as_json: Json = False) -> None:
    """Seal all credentials with the newest secret of HELIU_SECRET_KEY. Needs an operator key."""
    with closing(connect(operator=True)) as client:
        show_one(client.post("/v1/secrets/reseal"), as_json=as_json)


def sync(
    name: Name,
    dataset: Annotated[str | None, typer.Option(help="Build a version of this dataset of it.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML or JSON, for --dataset.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Read everything.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait for the end.")] = True,
    as_json: Json = False,
) -> None:
    """Sync a source, and build a dataset version of it."""
    body: dict[str, Any] = {"full": full}
    if recipe is not None and dataset is None:
        raise InvalidInput("--recipe goes with --dataset", param="--recipe")
    if dataset is not None:
        held = json.loads(parse_recipe(recipe.read_bytes()).canonical()) if recipe is not None else None
        body["build"] = {"dataset": dataset, "recipe": held}
    with closing(connect()) as client:
        accepted = client.post(path_of("sources", name, "syncs"), body)
        if not wait:
            err.print(f"accepted; `heliu jobs events {accepted['id']} -f` follows it")
            show_one(accepted, as_json=as_json)
            return
        done = {"sync_id": accepted["id"], **watch.finish(client, accepted["id"])}
        if done["build"] is not None:
            done["build"] |= watch.finish(client, done["build"]["job_id"])
    if as_json:
        print_json(done)
        return
    report = done["report"]
    drift = {name: found for name, found in report["drift"].items() if found}
    told = {**report["rows"], "rows": report["rows_total"], "drift": drift, "file_id": done["file_id"]}
    version = (done["build"] or {}).get("version_id")
    show_one({"mode": report["mode"], **told, "version_id": version}, as_json=False)


def _body(
    file: Path | None, secret_file: Path | None, secret_env: str | None, cron: str | None, zone: str
) -> dict[str, Any]:
    body = _read(file) if file is not None else {}
    if secret_file is not None and secret_env is not None:
        raise InvalidInput(
            "give --credentials-file or --credentials-env, not both", param="--credentials-env"
        )
    if secret_file is not None:
        body["credentials"] = _credentials(secret_file.read_text(), f"the file {str(secret_file)!r}")
    if secret_env is not None:
        where = f"the environment variable {secret_env!r}"
        body["credentials"] = _credentials(os.environ.get(secret_env, ""), where)
    if cron is not None:
        body["schedule"] = {"cron": cron, "timezone": zone}
    return body


def _read(file: Path) -> dict[str, Any]:
    try:
        body = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise InvalidInput(
            f"--file {str(file)!r} cannot be read: {type(exc).__name__}", param="--file"
        ) from exc
    if not isinstance(body, dict) or not body.keys() <= {"connection", "options", "schedule", "build"}:
        raise InvalidInput(
            f"--file {str(file)!r} holds connection, options, schedule and build, and nothing else",
            param="--file",
        )
    return body


def _credentials(text: str, where: str) -> Any:
    """An object, or a password by itself; which are no arguments, for those are seen by everybody on the machine."""
    text = text.strip()
    if not text:
        raise InvalidInput(f"{where} is empty")
    if not text.startswith("{"):
        return {"password": text}
    try:
        return json.loads(text)
    except ValueError as exc:
        raise InvalidInput(f"{where} holds no JSON") from exc
