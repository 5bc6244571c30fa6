"""The verbs of `heliu registry` that move a version: gate, promote, canary, rollback, and what a second key says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Annotated, Any

import typer

from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import moment, show_one, text
from services.cli.output import out, print_json
from services.cli.registry import Name, Reason, Version, given, shown
from shared.errors import InvalidInput

Decision = Annotated[str | None, typer.Option(help="By this decision; without it the gate is asked now.")]
COLORS = {"passed": "green", "waived": "yellow", "not_applicable": "dim"}


def stage(name: Name, version: Version, reason: Reason = None, as_json: Json = False) -> None:
    """Put a version up for promotion."""
    _move(name, version, "stage", {"reason": reason}, as_json=as_json)


def archive(name: Name, version: Version, reason: Reason = None, as_json: Json = False) -> None:
    """Put a version away; its model may be deleted then."""
    _move(name, version, "archive", {"reason": reason}, as_json=as_json)


def gate(
    name: Name,
    version: Version,
    candidate_run: Annotated[str | None, typer.Option(help="Instead of the newest of its model.")] = None,
    champion_run: Annotated[
        str | None, typer.Option(help="Instead of the newest of what is in production.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the gate of a version; the exit code is 1 where it does not pass."""
    body = given({"candidate_run": candidate_run, "champion_run": champion_run})
    with closing(connect()) as client:
        made = client.post(path_of("registry", name, "versions", str(version), "gate"), body)
    if as_json:
        print_json(made)
    else:
        _decided(made)
    if made["verdict"] != "passed":
        raise typer.Exit(1)


def promote(
    name: Name, version: Version, decision: Decision = None, reason: Reason = None, as_json: Json = False
) -> None:
    """Put a version into production, if its gate lets it through."""
    _move(name, version, "promote", {"decision": decision, "reason": reason}, as_json=as_json)


def canary(
    name: Name,
    version: Annotated[int | None, typer.Argument(metavar="VERSION", min=1)] = None,
    share: Annotated[
        float | None, typer.Argument(metavar="SHARE", help="Such as 0.05; that of its rule without.")
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="Give all callers production again.")] = False,
    decision: Decision = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Give a version a share of the callers, or end that."""
    if end == (version is not None):
        raise InvalidInput("give VERSION and SHARE, or --end", param="VERSION")
    if version is not None:
        body = {"share": share, "decision": decision, "reason": reason}
        _move(name, version, "canary", body, as_json=as_json)
        return
    with closing(connect()) as client:
        shown(client.delete(path_of("registry", name, "canary")), as_json=as_json)


def rollback(name: Name, reason: Reason = None, as_json: Json = False) -> None:
    """Go back to the version that was in production before, from the next request on."""
    with closing(connect()) as client:
        # So that of two who press at once one is told, instead of both going one back.
        now = client.get(path_of("registry", name))["production_version"]
        body = given({"from_version": now, "reason": reason})
        shown(client.post(path_of("registry", name, "rollback"), body), as_json=as_json)


def approve(
    name: Name, request: Annotated[str, typer.Argument(metavar="REQUEST")], as_json: Json = False
) -> None:
    """Approve what another key asked for; it happens now."""
    with closing(connect()) as client:
        shown(client.post(path_of("registry", name, "requests", request, "approve"), {}), as_json=as_json)


def reject(
    name: Name,
    request: Annotated[str, typer.Argument(metavar="REQUEST")],
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Refuse what was asked for, or take it back."""
    with closing(connect()) as client:
        made = client.post(
            path_of("registry", name, "requests", request, "reject"), given({"reason": reason})
        )
    show_one(made, as_json=as_json)


def waive(
    name: Name,
    version: Version,
    check: Annotated[str, typer.Argument(metavar="CHECK", help="As the gate names it.")],
    reason: Annotated[str, typer.Option(help="Why it may fail.")],
    days: Annotated[float, typer.Option(help="Until it expires.")] = 7.0,
    as_json: Json = False,
) -> None:
    """Let one check of a version fail, for another key to promote it."""
    body = {"check": check, "reason": reason, "days": days}
    with closing(connect()) as client:
        made = client.post(path_of("registry", name, "versions", str(version), "waivers"), body)
    show_one({**made, "expires_at": moment(made["expires_at"])} if not as_json else made, as_json=as_json)


def _move(name: str, version: int, verb: str, body: Mapping[str, Any], *, as_json: bool) -> None:
    with closing(connect()) as client:
        answer = client.post(path_of("registry", name, "versions", str(version), verb), given(body))
    shown(answer, as_json=as_json)


def _decided(made: Mapping[str, Any]) -> None:
    for check in made["checks"]:
        out.print(f"{check['outcome']:<14}", style=COLORS.get(check["outcome"], "red"), end="  ")
        out.print(f"{text(check['name'])}: {text(check['reason'])}")
    out.print(f"\n{made['verdict']}  (decision {made['id']}, valid until {moment(made['expires_at'])})")
