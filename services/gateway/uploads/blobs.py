"""Content sent by hash, in as many requests as it takes: what came stays, and the whole is checked before it counts.

Half-sent content lies in the store's shared folder under its tenant's id, so that any gateway may go on with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from anyio import from_thread

from shared.artifacts import Artifacts
from shared.errors import Conflict, InvalidInput, Unavailable

FORGOTTEN_S = 7 * 24 * 3600.0


class PartialBlob:
    """One object on its way in: `size` bytes of it are announced."""

    def __init__(self, store: Artifacts, tenant: UUID, blob: str, size: int) -> None:
        self._store = store
        self._blob = blob
        self._size = size
        self._folder = store.shared_folder / "partial" / tenant.hex
        self._path = self._folder / blob.removeprefix("sha256:")

    @property
    def received(self) -> int:
        """How many bytes are there already."""
        with suppress(FileNotFoundError):
            return self._path.stat().st_size
        return 0

    def append(self, offset: int, chunks: AsyncIterator[bytes]) -> bool:
        """Write what comes after `offset`; True when the object is whole and in the store. Call it from a thread.

        Raises Conflict while another request writes, or where `offset` is not where it stands; InvalidInput for
        more bytes than announced or another content than its name says, which is thrown away.
        """
        with self._locked() as target:
            if offset != self.received:
                raise Conflict(
                    f"{self.received} bytes of this object are here, so the next ones begin at offset "
                    f"{self.received}, not {offset}",
                    code="offset_mismatch",
                    param="offset",
                )
            self._write(target, offset, chunks)
            if self.received < self._size:
                return False
            self._finish()
            return True

    def _write(self, target: BinaryIO, offset: int, chunks: AsyncIterator[bytes]) -> None:
        target.seek(offset)
        end = offset
        try:
            while (chunk := from_thread.run(_next, chunks)) is not None:
                end += len(chunk)
                if end > self._size:
                    target.truncate(offset)
                    raise InvalidInput(
                        f"more came than the {self._size} bytes that `size` announces", param="size"
                    )
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Unavailable("the disk of the artifact store is full", code="storage_full") from exc
            raise

    def _finish(self) -> None:
        found = self._store.adopt(self._path, self._blob)
        if found != self._blob:
            raise InvalidInput(
                f"what came has the hash {found}, not {self._blob}; it was thrown away, send it again",
                code="hash_mismatch",
                param="object",
            )

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        self._folder.mkdir(parents=True, exist_ok=True)
        _sweep(self._folder)
        with self._path.open("ab") as locked:
            try:
                fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise Conflict(
                    "another request is sending this object just now", code="upload_busy", param="object"
                ) from exc
            if not self._is(locked):
                # The one before finished between our open and our lock: what we hold is in the store now.
                raise Conflict(
                    "another request has just sent this object", code="upload_busy", param="object"
                )
            yield locked

    def _is(self, opened: BinaryIO) -> bool:
        with suppress(FileNotFoundError):
            return self._path.stat().st_ino == os.fstat(opened.fileno()).st_ino
        return False


def _sweep(folder: Path) -> None:
    """Forget what nobody has gone on with for a week."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > FORGOTTEN_S:
                path.unlink()


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)
