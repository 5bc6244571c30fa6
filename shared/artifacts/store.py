"""What an artifact store is, wherever its bytes lie: objects by hash, and trees, which are JSON lists of objects.

The store holds an id of its own that Postgres knows too, so that a worker pointed at another place refuses to start
instead of missing every object.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
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


class Artifacts(ABC):
    """Writing the same bytes twice is one object; an object is there whole or not at all."""

    def __init__(self, place: str, shared_folder: Path, *, shares_folder: bool) -> None:
        """`place` is where the store is, in words. In `shared_folder` processes leave each other what is half made;
        `shares_folder` says whether those on other machines see it."""
        self.place = place
        self.shared_folder = shared_folder
        self.shares_folder = shares_folder

    def scratch(self, name: str) -> Path:
        """A folder for what the workers of one job hand each other; whoever uses it makes and removes it."""
        return self.shared_folder / "scratch" / name

    def scratches(self) -> list[Path]:
        """The scratch folders that are there."""
        folder = self.shared_folder / "scratch"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    @abstractmethod
    def store_id(self) -> str:
        """The id of this store, made at its first use."""

    @abstractmethod
    def trouble(self) -> str | None:
        """Why nothing can be stored just now, in words for anybody, or None. Raises where the place does not answer."""

    @abstractmethod
    def put(self, source: Source, *, max_bytes: int | None = None) -> tuple[str, int]:
        """Store all bytes of `source`; returns (id, bytes). Raises InvalidInput past `max_bytes`."""

    @abstractmethod
    def adopt(self, path: Path, artifact: str) -> str:
        """Take a file over as the object `artifact`; returns the id that its bytes have. Another one is deleted."""

    @abstractmethod
    def path(self, artifact: str) -> Path:
        """The whole object as a local file; never write to it. Raises NotFound."""

    @abstractmethod
    def keep(self, path: Path, under: Path) -> Path:
        """A file or folder of this store's by another name that stays for as long as `under` does."""

    @abstractmethod
    def begins(self, artifact: str, size: int) -> bytes:
        """The first `size` bytes of an object. Raises NotFound."""

    @abstractmethod
    def stored(self) -> Iterator[Stored]:
        """Every object, in no order; what comes or goes meanwhile may be missed."""

    @abstractmethod
    def remove(self, artifact: str, written_before: float) -> bool:
        """Remove an object unless its bytes have come again since; whether it was removed."""

    @abstractmethod
    def tidy(self, begun_before: float) -> int:
        """Remove what writers that were killed left half written; returns how much that was."""

    def open(self, artifact: str) -> BinaryIO:
        """The object's bytes; raises NotFound."""
        return self.path(artifact).open("rb")

    def put_file(self, path: Path) -> str:
        with path.open("rb") as source:
            return self.put(source)[0]

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
        return self.put(
            BytesIO(json.dumps({"tree": ordered}, sort_keys=True, separators=(",", ":")).encode())
        )[0]

    def materialize(self, tree: str, cache: Path) -> Path:
        """A folder with the tree's files under `cache`, made once; safe against racing processes."""
        folder = cache / tree.removeprefix("sha256:")
        if self._used(folder):
            return folder
        temporary = cache / f".{folder.name}-{secrets.token_hex(8)}"
        temporary.mkdir(parents=True)
        try:
            entries = list(self._entries(tree))
            self._fetch_ahead([entry for _, entry in entries])
            for name, entry in entries:
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(self.path(entry), target)
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

    def parts_of(self, artifact: str) -> list[str]:
        """The objects of a tree; nothing for what is no tree, or is not there."""
        try:
            if self.begins(artifact, len(TREE)) != TREE:
                return []
            return [entry for _, entry in self._entries(artifact)]
        except NotFound:
            return []
        except (ValueError, KeyError, TypeError):
            # An upload that only begins like one.
            return []

    def _fetch_ahead(self, artifacts: Sequence[str]) -> None:  # noqa: B027 - a folder has nothing to fetch
        """These are about to be read, one after the other."""

    def _used(self, folder: Path) -> bool:
        """Whether this folder of a tree is there; a store that clears its cache takes note of the use."""
        return folder.exists()

    def _entries(self, tree: str) -> Iterator[tuple[str, str]]:
        listing = json.loads(self.path(tree).read_bytes())
        for item in listing["tree"]:
            name = PurePosixPath(item["path"])
            if name.is_absolute() or ".." in name.parts:
                raise InvalidInput(f"tree {tree} names a file outside itself: {name}")
            yield str(name), item["object"]

    def _missing(self, artifact: str) -> NotFound:
        return NotFound(f"artifact {artifact} is not in the store {self.place}", code="artifact_not_found")


def hex_of(artifact: str) -> str:
    """The hash in an id; raises InvalidInput for what is none."""
    if not ID.match(artifact):
        raise InvalidInput(f"{artifact!r} is not an artifact id")
    return artifact.removeprefix("sha256:")


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without hard links.
        shutil.copyfile(source, target)
