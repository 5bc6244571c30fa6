"""`heliu files`: uploads and what the platform made of them."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from services.cli.client import connect, path_of
from services.cli.lifecycle import Json
from services.cli.listing import field, show, show_one, when
from services.cli.output import err
from shared.errors import InvalidInput

app = typer.Typer(help="Upload, list, fetch and delete files.", no_args_is_help=True)

FileId = Annotated[str, typer.Argument(metavar="ID")]


@app.command()
def upload(
    path: Annotated[Path, typer.Argument(metavar="FILE")],
    purpose: Annotated[str, typer.Option(help="fine-tune, batch, user_data, ...")] = "user_data",
    as_json: Json = False,
) -> None:
    """Send a file, streamed."""
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file", param="FILE")
    with closing(connect()) as client:
        show_one(client.upload(path, purpose), as_json=as_json)


@app.command("list")
def list_files(
    purpose: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    as_json: Json = False,
) -> None:
    """The newest files."""
    columns = [field("id"), when("created_at"), field("purpose"), field("bytes"), field("filename")]
    with closing(connect()) as client:
        page = client.get("/v1/files", purpose=purpose, limit=limit)
    show(page, columns, as_json=as_json, nothing="no files")


@app.command()
def get(
    file_id: FileId,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write here, not to stdout.")] = None,
) -> None:
    """The bytes of a file."""
    with closing(connect()) as client:
        chunks = client.download(path_of("files", file_id, "content"))
        if output is None:
            for chunk in chunks:
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        with output.open("wb") as target:
            for chunk in chunks:
                target.write(chunk)
    err.print(f"{output.stat().st_size} bytes in {output}")


@app.command()
def delete(file_id: FileId, as_json: Json = False) -> None:
    """Delete a file; jobs that were given it keep its content."""
    with closing(connect()) as client:
        show_one(client.delete(path_of("files", file_id)), as_json=as_json)
