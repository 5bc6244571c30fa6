"""`heliu upstreams`: models that another OpenAI-compatible server answers for. Needs an operator key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, show, show_one, when
from shared.contracts.upstream import check_endpoints, check_key
from shared.errors import InvalidInput

app = typer.Typer(
    help="Models that stand on another server: vLLM, SGLang, TGI, llama.cpp, ...", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the model is called here.")]
Tenant = Annotated[str, typer.Option(help="The tenant that it is for.")]
Remote = Annotated[str | None, typer.Option("--model", help="What it is called there; NAME by default.")]
Endpoints = Annotated[
    str | None, typer.Option(help="What it can do: chat, completions, embeddings, with commas between.")
]
Context = Annotated[int | None, typer.Option(min=1, help="Tokens that it takes; asked there by default.")]
KeyFile = Annotated[Path | None, typer.Option(help="File with its API key.")]
KeyEnv = Annotated[str | None, typer.Option(help="Environment variable with its API key.")]
Test = Annotated[bool, typer.Option(help="Ask the server for its models first.")]


@app.command()
def add(
    name: Name,
    url: Annotated[str, typer.Argument(metavar="URL", help="Its base, such as http://gpu1:8000/v1.")],
    model: Remote = None,
    endpoints: Endpoints = None,
    context: Context = None,
    key_file: KeyFile = None,
    key_env: KeyEnv = None,
    tenant: Tenant = "default",
    test: Test = True,
    as_json: Json = False,
) -> None:
    """Have requests for NAME answered by the server at URL."""
    body = {
        "name": name,
        "url": url,
        "tenant": tenant,
        **_given(model, endpoints, context, key_file, key_env, test),
    }
    with closing(connect(operator=True)) as client:
        show_one(client.post("/v1/upstreams", body), as_json=as_json)


@app.command()
def change(
    name: Name,
    url: Annotated[str | None, typer.Option(help="Its new base.")] = None,
    model: Remote = None,
    endpoints: Endpoints = None,
    context: Context = None,
    key_file: KeyFile = None,
    key_env: KeyEnv = None,
    no_key: Annotated[bool, typer.Option("--no-key", help="Forget its API key.")] = False,
    tenant: Tenant = "default",
    test: Test = True,
    as_json: Json = False,
) -> None:
    """Another address, name or key; what is not given stays."""
    body = {**_given(model, endpoints, context, key_file, key_env, test), **({"url": url} if url else {})}
    if no_key:
        if "api_key" in body:
            raise InvalidInput("--no-key goes without --key-file and --key-env", param="--no-key")
        body["api_key"] = ""
    with closing(connect(operator=True)) as client:
        show_one(client.post(_path(tenant, name), body), as_json=as_json)


@app.command("list")
def list_upstreams(as_json: Json = False) -> None:
    """Of all tenants, newest first; never with their keys."""
    columns = [
        field("name"),
        field("tenant"),
        field("url"),
        field("model"),
        ("endpoints", lambda row: ", ".join(row["endpoints"])),
        ("context", lambda row: row["context_length"] or ""),
        ("key", lambda row: "yes" if row["has_api_key"] else "no"),
        when("created_at"),
    ]
    with closing(connect(operator=True)) as client:
        page = client.get("/v1/upstreams")
    show(page, columns, as_json=as_json, nothing="no upstreams; `heliu upstreams add` adds one")


@app.command("test")
def run_test(name: Name, tenant: Tenant = "default", as_json: Json = False) -> None:
    """Ask the server for its models, and say what is wrong."""
    with closing(connect(operator=True)) as client:
        told: Mapping[str, Any] = client.post(_path(tenant, name, "test"))
    show_one(told if as_json else {**told, "models": ", ".join(told["models"])}, as_json=as_json)


@app.command()
def remove(name: Name, tenant: Tenant = "default", as_json: Json = False) -> None:
    """Take one away, with its key; refused while tasks or unfinished jobs need it."""
    with closing(connect(operator=True)) as client:
        show_one(client.delete(_path(tenant, name)), as_json=as_json)


def _path(tenant: str, *parts: str) -> str:
    return f"{path_of('upstreams', *parts)}?{urlencode({'tenant': tenant})}"


def _given(
    model: str | None,
    endpoints: str | None,
    context: int | None,
    key_file: Path | None,
    key_env: str | None,
    test: bool,
) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "context_length": context, "api_key": _key(key_file, key_env)}
    if endpoints is not None:
        names = [name.strip() for name in endpoints.split(",") if name.strip()]
        body["endpoints"] = check_endpoints(names, "--endpoints")
    return {name: value for name, value in body.items() if value is not None} | {"test": test}


def _key(file: Path | None, variable: str | None) -> str | None:
    """The key, which is no argument of its own: those are seen by everybody on the machine."""
    if file is not None and variable is not None:
        raise InvalidInput("give --key-file or --key-env, not both", param="--key-env")
    if file is not None:
        try:
            key = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidInput(
                f"--key-file {str(file)!r} cannot be read: {type(exc).__name__}", param="--key-file"
            ) from exc
        check_key(key, f"the key in {str(file)!r}")
        return key
    if variable is not None:
        key = os.environ.get(variable, "")
        check_key(key, f"the environment variable {variable!r}")
        return key
    return None
