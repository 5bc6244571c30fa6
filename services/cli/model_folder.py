"""A model's folder on this machine, sent to the gateway: by hash, in parts, and what is there already not again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.cli.client import Client, path_of
from shared.contracts.models import ADAPTER_CONFIG, UnsafeFile, check_paths, is_model_file, is_pickle
from shared.errors import HeliuError, InvalidInput, NotFound, Unavailable

CHUNK = 1024 * 1024
# One request carries so much at most: what it breaks off in stays, and the next begins there.
PART = 64 * CHUNK
TRIES = 6

Tell = Callable[[str], None]


@dataclass(frozen=True)
class LocalFile:
    """`path` is its place in the model's folder, `source` where it lies here."""

    path: str
    source: Path
    bytes: int


@dataclass(frozen=True)
class LocalFolder:
    """What is sent, and what is left out with the reason."""

    files: tuple[LocalFile, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def is_adapter(self) -> bool:
        return any(file.path == ADAPTER_CONFIG for file in self.files)


def look(folder: Path) -> LocalFolder:
    """The files that a model is served from. Raises InvalidInput for a link out of the folder, UnsafeFile where
    there are pickled weights alone."""
    root = folder.resolve()
    files: list[LocalFile] = []
    left_out: list[tuple[str, str]] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith("."):
            continue
        if not is_model_file(name):
            why = (
                "a pickle, which can run code when read"
                if is_pickle(name)
                else "not needed to serve the model"
            )
            left_out.append((name, why))
            continue
        target = path.resolve()
        if not target.is_relative_to(root):
            raise InvalidInput(
                f"{path} is a link to {target}, outside of the folder; copy the folder with `cp -rL` and add the copy",
                param="SOURCE",
            )
        if not target.is_file():
            raise InvalidInput(f"{path} is no regular file", param="SOURCE")
        files.append(LocalFile(name, target, target.stat().st_size))
    pickles = [name for name, _ in left_out if is_pickle(name)]
    if pickles and not any(file.path.endswith(".safetensors") for file in files):
        raise UnsafeFile(
            f"{folder} has only pickled weights ({', '.join(pickles[:3])}), which can run code when read; convert "
            "them to .safetensors",
            param="SOURCE",
        )
    check_paths([file.path for file in files], "SOURCE")
    return LocalFolder(tuple(files), tuple(left_out))


def send(client: Client, folder: LocalFolder, tell: Tell) -> list[dict[str, Any]]:
    """Every file in the gateway's store; returns what POST /v1/models wants of them."""
    listing = []
    for file in folder.files:
        blob = _hash(file.source)
        _send(client, file, blob, tell)
        listing.append({"path": file.path, "object": blob, "bytes": file.bytes})
    return listing


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _send(client: Client, file: LocalFile, blob: str, tell: Tell) -> None:
    """Raises what the gateway says of it; what passes by itself is tried again from where it broke off."""
    broken = 0
    state = _state(client, blob)
    if state["complete"]:
        tell(f"{file.path}: there already")
        return
    while not state["complete"]:
        try:
            state = _part(client, file, blob, state["received"])
            tell(f"{file.path}: {state['received']} of {file.bytes} bytes")
            broken = 0
        except HeliuError as exc:
            broken += 1
            if broken >= TRIES or not _passes(exc):
                raise
            tell(f"{file.path}: broke off ({exc.message}); going on")
            time.sleep(min(8.0, 0.25 * 2**broken))
            state = _state(client, blob)


def _passes(exc: HeliuError) -> bool:
    """A broken connection, a gateway that restarts, or another that has just sent the same."""
    return isinstance(exc, Unavailable) or exc.code in (
        "upload_busy",
        "offset_mismatch",
        "request_timeout",
        "database_unavailable",
        "rate_limit_exceeded",
    )


def _state(client: Client, blob: str) -> dict[str, Any]:
    try:
        return client.get(path_of("blobs", blob))
    except HeliuError as exc:
        if exc.code != NotFound.code:
            raise
        return {"received": 0, "complete": False}


def _part(client: Client, file: LocalFile, blob: str, offset: int) -> dict[str, Any]:
    return client.request(
        "PUT",
        path_of("blobs", blob),
        params={"size": file.bytes, "offset": offset},
        content=_read(file.source, offset),
        headers={"content-type": "application/octet-stream"},
    )


def _read(path: Path, offset: int) -> Iterator[bytes]:
    left = PART
    with path.open("rb") as source:
        source.seek(offset)
        while left and (chunk := source.read(min(CHUNK, left))):
            left -= len(chunk)
            yield chunk
