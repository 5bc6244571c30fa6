"""`heliu data check`: the consistency of files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from services.cli import watch
from services.cli.client import connect
from services.cli.lifecycle import Json
from services.cli.listing import show_one
from services.cli.output import err, out, print_json
from shared.errors import InvalidInput


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON with inputs and checks.")],
    wait: Annotated[bool, typer.Option(help="Wait for the end.")] = True,
    as_json: Json = False,
) -> None:
    """Check keys and references between files, and make one record of those that are of one thing."""
    try:
        body = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise InvalidInput(f"{str(file)!r} cannot be read: {type(exc).__name__}", param="FILE") from exc
    if not isinstance(body, dict):
        raise InvalidInput(f"{str(file)!r} holds no inputs and checks", param="FILE")
    with closing(connect()) as client:
        accepted = client.post("/v1/checks", body)
        if not wait:
            err.print(f"accepted; `heliu jobs events {accepted['id']} -f` follows it")
            show_one(accepted, as_json=as_json)
            return
        done = {"check_id": accepted["id"], **watch.finish(client, accepted["id"])}
    if as_json:
        print_json(done)
        return
    for line in _lines(done["report"]):
        out.print(line)
    show_one({k: v for k, v in done.items() if k not in ("report", "name")}, as_json=False)


def _lines(report: dict[str, Any]) -> list[str]:
    lines = []
    for key in report["keys"]:
        name = f"key {key['input']}({', '.join(key['columns'])})"
        lines.append(f"{name}: {'holds' if key['ok'] else _broken(key)}")
    for one in report["references"]:
        name = f"reference {one['input']}({', '.join(one['columns'])}) to {one['to']}"
        lines.append(f"{name}: {'holds' if one['ok'] else _broken(one)}")
    if found := report["entities"]:
        lines.append(f"{found['records']} records are of {found['entities']} things")
        lines.append(f"{found['conflicts']['total']} contradictions were settled")
    return lines


def _broken(found: dict[str, Any]) -> str:
    nulls = f", {found['nulls']} rows with a null" if found.get("nulls") else ""
    return f"{found['values']} values in {found['rows']} rows break it{nulls}"
