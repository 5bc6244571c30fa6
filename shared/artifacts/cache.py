"""Objects of a remote store as files of this machine: fetched once, the longest unused dropped past a bound.

Shared by all processes of one HELIU_HOME. Knows no network: who misses a file is handed a place to write it to.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

# What was asked for so lately may be about to be opened, or mapped by an engine: the bound waits for it.
IN_USE_S = 6 * 3600.0
_TREE = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file of an object, or the folder of a tree (whose files are further names of those of its objects)."""

    path: Path
    used_at: float
    inodes: tuple[tuple[int, int], ...]  # (inode, bytes)


class ObjectCache:
    """`root/objects/ab/cdef...` beside `root/<hash of a tree>/`; `max_bytes` bounds them together."""

    def __init__(self, root: Path, max_bytes: int, *, in_use_s: float = IN_USE_S) -> None:
        self._root = root
        self._objects = root / "objects"
        self._max_bytes = max_bytes
        self._in_use_s = in_use_s
        self._fetched = 0
        self.incoming = root / "incoming"
        for folder in (self._objects, self.incoming):
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, fetch: Callable[[Path], None]) -> Path:
        """The file of the object with this hash; `fetch` writes it where it is told to when it is not here.

        Raises what `fetch` raises.
        """
        path = self._objects / name[:2] / name[2:]
        if self.used(path):
            return path
        temporary = self.incoming / secrets.token_hex(16)
        try:
            fetch(temporary)
            return self._take(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def take(self, temporary: Path, name: str) -> Path:
        """A file of `incoming` that is known to have this hash becomes the object's."""
        return self._take(temporary, self._objects / name[:2] / name[2:])

    def _take(self, temporary: Path, path: Path) -> Path:
        path.parent.mkdir(exist_ok=True)
        temporary.chmod(0o440)
        self._fetched += temporary.stat().st_size
        with self._locked(fcntl.LOCK_SH):
            temporary.replace(path)
        if self._fetched * 20 > self._max_bytes:
            self._fetched = 0
            self.shrink()
        return path

    def used(self, path: Path) -> bool:
        """Whether this file or folder is here; if so it counts as used now."""
        try:
            with self._locked(fcntl.LOCK_SH):
                os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def forget(self, name: str) -> None:
        """The object is gone from the store."""
        (self._objects / name[:2] / name[2:]).unlink(missing_ok=True)

    def shrink(self) -> int:
        """Drop what was unused longest until the rest is within the bound; returns how many entries went."""
        entries = sorted(self._entries(), key=lambda entry: entry.used_at)
        names = Counter(inode for entry in entries for inode, _ in entry.inodes)
        total = sum({inode: size for entry in entries for inode, size in entry.inodes}.values())
        dropped = 0
        for entry in entries:
            if total <= self._max_bytes:
                break
            if not self._drop(entry.path):
                continue
            dropped += 1
            for inode, size in entry.inodes:
                names[inode] -= 1
                total -= 0 if names[inode] else size
        if total > self._max_bytes:
            log.warning("cache_over_its_bound", extra={"bytes": total, "max_bytes": self._max_bytes})
        return dropped

    def tidy(self, begun_before: float) -> int:
        """Remove what a killed process left half fetched; returns how many files."""
        left = [path for path in self.incoming.iterdir() if _used_at(path) < begun_before]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def _drop(self, path: Path) -> bool:
        """Take an entry out of sight unless it has been used of late, then remove it."""
        doomed = self.incoming / f"doomed-{secrets.token_hex(8)}"
        with self._locked(fcntl.LOCK_EX):
            if not 0 < _used_at(path) < time.time() - self._in_use_s:
                return False
            path.rename(doomed)
        if doomed.is_dir():
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            doomed.unlink(missing_ok=True)
        return True

    def _entries(self) -> Iterator[_Entry]:
        for folder in self._objects.iterdir():
            for path in folder.iterdir():
                yield _entry(path, [path])
        for folder in self._root.iterdir():
            if _TREE.match(folder.name):
                yield _entry(folder, [path for path in folder.rglob("*") if path.is_file()])

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Uses share a lock, and a removal has it alone between its look at the last use and its rename."""
        with (self._root / "lock").open("a") as handle:
            fcntl.flock(handle, how)
            yield


def _entry(path: Path, files: list[Path]) -> _Entry:
    inodes = []
    for file in files:
        try:
            about = file.stat()
        except FileNotFoundError:
            continue
        inodes.append((about.st_ino, about.st_size))
    return _Entry(path, _used_at(path), tuple(inodes))


def _used_at(path: Path) -> float:
    """When a file or folder was last used; 0 for one that is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
