"""The artifact store in a local folder, which all processes share. Knows no network."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shared.artifacts.store import CHUNK, Artifacts, Source, Stored, hex_of
from shared.errors import InvalidInput

LEAST_FREE_BYTES = 256 * 1024 * 1024
LEAST_FREE_SHARE = 0.01


class ArtifactStore(Artifacts):
    """Objects under `root/objects/ab/cdef...`."""

    def __init__(self, root: Path, *, shared_folder: Path | None = None) -> None:
        super().__init__(str(root), shared_folder or root, shares_folder=True)
        self.root = root
        self._objects = root / "objects"
        self._incoming = root / "incoming"
        for folder in (self._objects, self._incoming):
            folder.mkdir(parents=True, exist_ok=True)

    def store_id(self) -> str:
        path = self.root / "store_id"
        if not path.exists():
            temporary = self._incoming / f"id-{secrets.token_hex(8)}"
            temporary.write_text(secrets.token_hex(16))
            try:
                os.link(temporary, path)
            except FileExistsError:
                # Another process made the store's id at the same moment: its id stands.
                return path.read_text()
            finally:
                temporary.unlink()
        return path.read_text()

    def trouble(self) -> str | None:
        return disk_trouble(self.root)

    def put(self, source: Source, *, max_bytes: int | None = None) -> tuple[str, int]:
        temporary = self._incoming / secrets.token_hex(16)
        try:
            artifact, size = spool(source, temporary, max_bytes=max_bytes)
            final = self._path(artifact)
            final.parent.mkdir(exist_ok=True)
            temporary.chmod(0o440)
            with self._locked(fcntl.LOCK_SH):
                temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
        return artifact, size

    def adopt(self, path: Path, artifact: str) -> str:
        found = id_of(path)
        if found == artifact:
            final = self._path(artifact)
            final.parent.mkdir(exist_ok=True)
            path.chmod(0o440)
            # Its bytes may have come long ago, and nothing names it yet: it is new from now on.
            os.utime(path)
            with self._locked(fcntl.LOCK_SH):
                path.replace(final)
        else:
            path.unlink()
        return found

    def path(self, artifact: str) -> Path:
        found = self._path(artifact)
        if not found.exists():
            raise self._missing(artifact)
        return found

    def open(self, artifact: str) -> BinaryIO:
        try:
            return self._path(artifact).open("rb")
        except FileNotFoundError as exc:
            raise self._missing(artifact) from exc

    def keep(self, path: Path, under: Path) -> Path:  # noqa: ARG002 - a bucket links it there
        """The same: nothing that a row names goes away here."""
        return path

    def begins(self, artifact: str, size: int) -> bytes:
        with self.open(artifact) as source:
            return source.read(size)

    def stored(self) -> Iterator[Stored]:
        for folder in self._objects.iterdir():
            for path in folder.iterdir():
                try:
                    about = path.stat()
                except FileNotFoundError:
                    continue
                yield Stored(f"sha256:{folder.name}{path.name}", about.st_size, about.st_mtime)

    def remove(self, artifact: str, written_before: float) -> bool:
        path = self._path(artifact)
        with self._locked(fcntl.LOCK_EX):
            try:
                if path.stat().st_mtime >= written_before:
                    return False
                path.unlink()
            except FileNotFoundError:
                return False
        return True

    def tidy(self, begun_before: float) -> int:
        removed = 0
        for path in self._incoming.iterdir():
            try:
                if path.stat().st_mtime < begun_before:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                continue
        return removed

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Who puts bytes in their place shares a lock, and who takes objects away has it alone: between its look at
        an object's age and its removal the same bytes cannot come again."""
        with (self.root / "lock").open("a") as handle:
            fcntl.flock(handle, how)
            yield

    def _path(self, artifact: str) -> Path:
        name = hex_of(artifact)
        return self._objects / name[:2] / name[2:]


def spool(source: Source, target: Path, *, max_bytes: int | None = None) -> tuple[str, int]:
    """Write all bytes of `source` to a new file that is on the disk when this returns (id, bytes).

    Raises InvalidInput past `max_bytes`; the file is the caller's to remove, whatever happens.
    """
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as handle:
        while chunk := source.read(CHUNK):
            size += len(chunk)
            if max_bytes is not None and size > max_bytes:
                raise InvalidInput(
                    f"the upload is over the limit of {max_bytes} bytes", code="file_too_large"
                )
            digest.update(chunk)
            handle.write(chunk)
        handle.flush()
        os.fsync(handle.fileno())
    return f"sha256:{digest.hexdigest()}", size


def id_of(path: Path) -> str:
    """The id that the bytes of a file have."""
    with path.open("rb") as source:
        return f"sha256:{hashlib.file_digest(source, 'sha256').hexdigest()}"


def disk_trouble(root: Path) -> str | None:
    """Why a folder takes no more, or None."""
    usage = shutil.disk_usage(root)
    least = min(LEAST_FREE_BYTES, int(usage.total * LEAST_FREE_SHARE))
    return None if usage.free > least else f"the artifact store's disk has only {usage.free} bytes left"
