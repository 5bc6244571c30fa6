"""`heliu keys` and `heliu tenants`: who may ask. Needs an operator key."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, show, show_one, when
from services.cli.output import err, out

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
tenants = typer.Typer(help="Add and list tenants.", no_args_is_help=True)

COLUMNS = [
    field("id"),
    field("name"),
    field("tenant"),
    field("role"),
    field("prefix"),
    when("created_at"),
    when("revoked_at"),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    tenant: Annotated[str, typer.Option(help="The tenant that it belongs to.")] = "default",
    role: Annotated[str, typer.Option(help="tenant, or operator.")] = "tenant",
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_day: Annotated[int | None, typer.Option(min=1)] = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown this once."""
    body = {
        "name": name,
        "tenant": tenant,
        "role": role,
        "requests_per_minute": requests_per_minute,
        "tokens_per_day": tokens_per_day,
    }
    with closing(connect(operator=True)) as client:
        made = client.post("/v1/keys", body)
    if as_json:
        show_one(made, as_json=True)
        return
    err.print(f"key {made['id']} of tenant {made['tenant']}; it is shown this once:")
    out.print(made["key"])


@app.command("list")
def list_keys(limit: Annotated[int, typer.Option(min=1, max=100)] = 50, as_json: Json = False) -> None:
    """Keys of all tenants, revoked ones too; never the keys themselves."""
    with closing(connect(operator=True)) as client:
        show(client.get("/v1/keys", limit=limit), COLUMNS, as_json=as_json, nothing="no keys")


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Take a key's right away; within seconds it opens nothing."""
    with closing(connect(operator=True)) as client:
        show_one(client.delete(path_of("keys", key_id)), as_json=as_json)


@tenants.command("create")
def create_tenant(
    name: str,
    max_live: Annotated[int, typer.Option(min=1, help="Live requests in flight at most.")] = 64,
    max_running: Annotated[int, typer.Option(min=1, help="Jobs at once on a queue at most.")] = 8,
    weight: Annotated[float, typer.Option(min=0.001, help="Share of the turns.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Add a tenant."""
    body = {"name": name, "max_live": max_live, "max_running": max_running, "weight": weight}
    with closing(connect(operator=True)) as client:
        show_one(client.post("/v1/tenants", body), as_json=as_json)


@tenants.command("list")
def list_tenants(limit: Annotated[int, typer.Option(min=1, max=100)] = 50, as_json: Json = False) -> None:
    """All tenants."""
    columns = [field("name"), field("max_live"), field("max_running"), field("weight"), when("created_at")]
    with closing(connect(operator=True)) as client:
        show(client.get("/v1/tenants", limit=limit), columns, as_json=as_json, nothing="no tenants")
