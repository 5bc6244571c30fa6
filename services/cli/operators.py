"""`heliu data operators`: what a recipe's steps may be, from the contracts; no server is asked."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from services.cli.lifecycle import Json
from services.cli.output import out, print_json
from shared.contracts.recipe_text import did_you_mean
from shared.contracts.steps.describe import operators
from shared.errors import InvalidInput


def show_operators(
    name: Annotated[
        str | None, typer.Argument(metavar="OPERATOR", help="Only this one, with its notes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The operators of recipes and their parameters."""
    known = operators()
    if name is not None and name not in [about["op"] for about in known]:
        names = [str(about["op"]) for about in known]
        raise InvalidInput(
            f"there is no operator `{name[:80]}`; {did_you_mean(name, names)}", param="OPERATOR"
        )
    chosen = [about for about in known if name in (None, about["op"])]
    if as_json:
        print_json({"data": chosen})
        return
    for about in chosen:
        _show(about, whole=name is not None)


def _show(about: dict[str, Any], *, whole: bool) -> None:
    out.print(f"{about['op']}", style="bold", end="  ")
    out.print(about["does"])
    for param in about["params"]:
        told = "required" if param["required"] else json.dumps(param.get("default"), ensure_ascii=False)
        out.print(f"    {param['name']} = {told}  ({param['type']})")
    if whole:
        out.print(f"\n{about['note']}")
        if about["before"]:
            out.print("Stands before " + ", ".join(about["before"]) + ".")
