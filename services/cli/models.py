"""`heliu models` and `heliu workers`: what can be asked, where it came from, and who answers."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from services.cli import model_folder, watch
from services.cli.client import Client, connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, moment, show, show_one, text
from services.cli.output import err, print_json
from shared.contracts.models import HUB_ID, NAME, Kind
from shared.errors import InvalidInput

app = typer.Typer(help="Add, list, show and remove models.", no_args_is_help=True)
workers = typer.Typer(help="Show workers.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(metavar="MODEL")]
KINDS = get_args(Kind)


@app.command()
def add(
    source: Annotated[
        str, typer.Argument(metavar="FOLDER|HUB_ID", help="A folder here, or a model on the hub.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Its name here; the source's last part by default.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="base, adapter, encoder, classifier or ranker; told from the files.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="The model that an adapter was trained on.")] = None,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit, on the hub.")] = "main",
    wait: Annotated[bool, typer.Option(help="Wait for the end.")] = True,
    as_json: Json = False,
) -> None:
    """Bring in a model: safetensors only, and checked before it is served."""
    if kind is not None and kind not in KINDS:
        raise InvalidInput(f"--kind must be one of {', '.join(KINDS)}, got {kind!r}", param="--kind")
    body: dict[str, Any] = {"name": _name(source, name), "kind": kind, "base": base}
    folder = Path(source).expanduser()
    with closing(connect()) as client:
        if folder.is_dir():
            body["files"] = _send(client, folder, kind, base)
        elif re.fullmatch(HUB_ID, source) and not folder.exists():
            body |= {"hub_id": source, "revision": revision}
        else:
            raise InvalidInput(
                f"{source!r} is neither a folder here nor an id such as OWNER/NAME", param="SOURCE"
            )
        watch.answer(client, client.post("/v1/models", body), wait=wait, as_json=as_json)


def _name(source: str, name: str | None) -> str:
    found = name if name is not None else Path(source).expanduser().resolve().name
    if not re.fullmatch(NAME, found):
        raise InvalidInput(
            f"{found!r} cannot be a model's name: 1 to 64 letters, digits, dots, dashes and underscores, the first a "
            "letter or digit; give one with --name",
            param="--name",
        )
    return found


def _send(client: Client, folder: Path, kind: str | None, base: str | None) -> list[dict[str, Any]]:
    found = model_folder.look(folder)
    if (kind == "adapter" or (kind is None and found.is_adapter)) and base is None:
        raise InvalidInput(
            "this is an adapter; give the name of the model that it was trained on with --base",
            param="--base",
        )
    for path, why in found.left_out:
        err.print(f"left out: {text(path)} ({why})")
    return model_folder.send(client, found, err.print)


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """All that is asked by name: models, registered names and tasks, newest first."""
    columns = [
        field("id"),
        field("kind"),
        ("base", lambda row: row.get("model") or row["base"] or ""),
        (
            "architecture",
            lambda row: row["info"].get("architecture") or row["info"].get("upstream_model", ""),
        ),
        ("parameters", lambda row: row["info"].get("parameters", "")),
        ("created", lambda row: moment(row["created"])),
        ("job", lambda row: row["job_id"] or ""),
    ]
    with closing(connect()) as client:
        show(client.get("/v1/models"), columns, as_json=as_json, nothing="no models")


@app.command("show")
def show_model(model: Model, as_json: Json = False) -> None:
    """One model: what it is, where it came from, and by which job."""
    with closing(connect()) as client:
        shown = client.get(path_of("models", model))
    info: dict[str, Any] = {} if as_json else shown.pop("info")
    # How it was made is told by its card.
    info.pop("lineage", None)
    show_one({**shown, **info}, as_json=as_json)


@app.command()
def card(model: Model, as_json: Json = False) -> None:
    """The model card, as Markdown: what it is, what of, how good, how far."""
    with closing(connect()) as client:
        path = path_of("models", model, "card")
        if as_json:
            print_json(client.get(path))
            return
        sys.stdout.write(b"".join(client.download(f"{path}?format=md")).decode())


@app.command()
def remove(model: Model, as_json: Json = False) -> None:
    """Take a model away; refused while adapters or unfinished jobs need it."""
    with closing(connect()) as client:
        show_one(client.delete(path_of("models", model)), as_json=as_json)


# What it was called at first.
app.command("delete", hidden=True)(remove)


@workers.command("list")
def list_workers(as_json: Json = False) -> None:
    """Workers that live or have lived within the hour, what they may serve and what they hold."""
    columns = [
        field("name"),
        field("service"),
        field("pool"),
        field("state"),
        ("busy", lambda row: f"{row['busy']}/{row['slots']}"),
        ("heard", lambda row: moment(row["heartbeat_at"])),
        ("device", lambda row: _device(row["info"])),
        ("serves", lambda row: _serves(row["info"])),
        ("holds", lambda row: _holds(row["info"])),
        ("queues", lambda row: ", ".join(row["queues"])),
    ]
    with closing(connect(operator=True)) as client:
        show(
            client.get("/v1/workers"), columns, as_json=as_json, nothing="no workers; `heliu up` starts some"
        )


def _device(info: Mapping[str, Any]) -> str:
    """What a training worker computes on, and how much memory that has."""
    name, size = info.get("device_name"), info.get("memory_bytes")
    if not name:
        return ""
    count = f"{info['devices']} x " if info.get("device") == "cuda" else ""
    return f"{count}{name}" + (f", {size / 2**30:.0f} GiB" if size else "")


def _serves(info: Mapping[str, Any]) -> str:
    if "serves" not in info:
        return ""
    return ", ".join(info["serves"]) if info["serves"] is not None else "any"


def _holds(info: Mapping[str, Any]) -> str:
    """`qwen (412 MB, 2 adapters)`, and so on."""
    held = []
    for base in info.get("bases", []):
        more = [f"{base['bytes'] // 1_000_000} MB"] if base.get("bytes") else []
        more += [f"{len(base['adapters'])} adapters"] if base.get("adapters") else []
        held.append(f"{base['name']} ({', '.join(more)})" if more else str(base["name"]))
    held += [str(encoder["name"]) for encoder in info.get("encoders", [])]
    return ", ".join(held)
