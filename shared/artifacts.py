"""Content-addressed objects and trees in a local folder. An id is `sha256:<hex>`; a tree is a JSON list of files.

The store holds an id of its own that Postgres knows too, so that a worker pointed at another folder refuses
to start instead of missing every object.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from shared.errors import InvalidInput, NotFound

CHUNK = 1024 * 1024
ID = re.compile(r"^sha256:[0-9a-f]{64}$")
# How the listing of a tree begins.
TREE = b'{"tree":'


class Source(Protocol):
    """Anything that gives bytes: an open file, an upload."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it lies in the store; `written_at` is when its bytes last came, in unix seconds."""

    artifact: str
    bytes: int
    written_at: float


class ArtifactStore:
    """Objects under `root/objects/ab/cdef...`; writing the same bytes twice is one object."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._objects = root / "objects"
        self._incoming = root / "incoming"
        for folder in (self._objects, self._incoming):
            folder.mkdir(parents=True, exist_ok=True)

    def scratch(self, name: str) -> Path:
        """A folder for what the workers of one job hand each other; whoever uses it makes and removes it."""
        return self.root / "scratch" / name

    def scratches(self) -> list[Path]:
        """The scratch folders that are there."""
        folder = self.root / "scratch"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def store_id(self) -> str:
        """The id of this store, made at its first use."""
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

    def put(self, source: Source, *, max_bytes: int | None = None) -> tuple[str, int]:
        """Store all bytes of `source`; returns (id, bytes). Raises InvalidInput past `max_bytes`."""
        temporary = self._incoming / secrets.token_hex(16)
        digest, size = hashlib.sha256(), 0
        try:
            with temporary.open("xb") as target:
                while chunk := source.read(CHUNK):
                    size += len(chunk)
                    if max_bytes is not None and size > max_bytes:
                        raise InvalidInput(
                            f"the upload is over the limit of {max_bytes} bytes", code="file_too_large"
                        )
                    digest.update(chunk)
                    target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
            name = digest.hexdigest()
            final = self._path(f"sha256:{name}")
            final.parent.mkdir(exist_ok=True)
            temporary.chmod(0o440)
            with self._locked(fcntl.LOCK_SH):
                temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
        return f"sha256:{name}", size

    def put_file(self, path: Path) -> str:
        with path.open("rb") as source:
            return self.put(source)[0]

    def adopt(self, path: Path, artifact: str) -> str:
        """Take a file over as the object `artifact`; returns the id that its bytes have. Another one is deleted."""
        digest = hashlib.sha256()
        with path.open("rb") as source:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
        found = f"sha256:{digest.hexdigest()}"
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

    def put_tree(self, folder: Path, keep: Callable[[str], object] = lambda _: True) -> str:
        """Store the regular files under `folder` whose relative names `keep` accepts; returns the id of the tree.

        Raises InvalidInput for a link, and when there is nothing to store.
        """
        listing: list[dict[str, object]] = []
        for path in sorted(folder.rglob("*")):
            if path.is_symlink():
                raise InvalidInput(f"{path} is a link; an artifact holds regular files only")
            name = path.relative_to(folder).as_posix()
            if path.is_file() and keep(name):
                listing.append({"path": name, "object": self.put_file(path), "bytes": path.stat().st_size})
        if not listing:
            raise InvalidInput(f"{folder} holds no file")
        return self.put_listing(listing)

    def put_listing(self, listing: Sequence[Mapping[str, object]]) -> str:
        """Store a tree of objects that are in the store: `path`, `object` and `bytes` of each; returns its id."""
        ordered = sorted(listing, key=lambda item: PurePosixPath(str(item["path"])))
        body = json.dumps({"tree": ordered}, sort_keys=True, separators=(",", ":")).encode()
        temporary = self._incoming / secrets.token_hex(16)
        temporary.write_bytes(body)
        try:
            return self.put_file(temporary)
        finally:
            temporary.unlink()

    def open(self, artifact: str) -> BinaryIO:
        """The object's bytes; raises NotFound."""
        try:
            return self._path(artifact).open("rb")
        except FileNotFoundError as exc:
            raise NotFound(
                f"artifact {artifact} is not in the store {self.root}", code="artifact_not_found"
            ) from exc

    def path(self, artifact: str) -> Path:
        """Where the object lies, for readers that need a file; never write to it."""
        found = self._path(artifact)
        if not found.exists():
            raise NotFound(f"artifact {artifact} is not in the store {self.root}", code="artifact_not_found")
        return found

    def materialize(self, tree: str, cache: Path) -> Path:
        """A folder with the tree's files under `cache`, made once; safe against racing processes."""
        folder = cache / tree.removeprefix("sha256:")
        if folder.exists():
            return folder
        temporary = cache / f".{folder.name}-{secrets.token_hex(8)}"
        temporary.mkdir(parents=True)
        try:
            for name, entry in self._entries(tree):
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(self.path(entry), target)
            try:
                temporary.rename(folder)
            except OSError:
                # Another process made the same folder first; its content is the same by hash.
                if not folder.exists():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return folder

    def read_entry(self, tree: str, name: str) -> bytes:
        """The bytes of one small file of a tree; raises NotFound."""
        for path, entry in self._entries(tree):
            if path == name:
                return self.path(entry).read_bytes()
        raise NotFound(f"tree {tree} has no file {name}", code="artifact_not_found")

    def stored(self) -> Iterator[Stored]:
        """Every object, in no order; what comes or goes meanwhile may be missed."""
        for folder in self._objects.iterdir():
            for path in folder.iterdir():
                try:
                    about = path.stat()
                except FileNotFoundError:
                    continue
                yield Stored(f"sha256:{folder.name}{path.name}", about.st_size, about.st_mtime)

    def parts_of(self, artifact: str) -> list[str]:
        """The objects of a tree; nothing for what is no tree, or is not there."""
        try:
            with self.open(artifact) as source:
                if source.read(len(TREE)) != TREE:
                    return []
        except NotFound:
            return []
        try:
            return [entry for _, entry in self._entries(artifact)]
        except (ValueError, KeyError, TypeError):
            # An upload that only begins like one.
            return []

    def remove(self, artifact: str, written_before: float) -> bool:
        """Remove an object unless its bytes have come again since; whether it was removed."""
        path = self._path(artifact)
        with self._locked(fcntl.LOCK_EX):
            try:
                if path.stat().st_mtime >= written_before:
                    return False
                path.unlink()
            except FileNotFoundError:
                return False
        return True

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Who puts bytes in their place shares a lock, and who takes objects away has it alone: between its look at
        an object's age and its removal the same bytes cannot come again."""
        with (self.root / "lock").open("a") as handle:
            fcntl.flock(handle, how)
            yield

    def _entries(self, tree: str) -> Iterator[tuple[str, str]]:
        listing = json.loads(self.path(tree).read_bytes())
        for item in listing["tree"]:
            name = PurePosixPath(item["path"])
            if name.is_absolute() or ".." in name.parts:
                raise InvalidInput(f"tree {tree} names a file outside itself: {name}")
            yield str(name), item["object"]

    def _path(self, artifact: str) -> Path:
        if not ID.match(artifact):
            raise InvalidInput(f"{artifact!r} is not an artifact id")
        name = artifact.removeprefix("sha256:")
        return self._objects / name[:2] / name[2:]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without hard links.
        shutil.copyfile(source, target)
