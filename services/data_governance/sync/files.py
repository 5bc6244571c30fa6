"""Files of a folder that the operator opens to sources: by size and time of change, then by content."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.data_governance.sync.reach import Reach, SourceFailed, SourceUnavailable
from services.data_governance.sync.reading import Item
from shared.contracts.sources import Files
from shared.errors import InvalidInput

CHUNK = 1024 * 1024


@dataclass(frozen=True)
class FolderSource:
    spec: Files
    reach: Reach

    @property
    def key(self) -> tuple[str, ...]:
        return self.spec.key

    def close(self) -> None:
        """Nothing is held open."""

    def items(self) -> Iterator[Item]:
        """Every regular file, by its path below the folder. Links that lead out of allowed folders are left out.

        Raises InvalidInput for a path that may not be read, or a pattern that is none.
        """
        root = self.reach.path(self.spec.path)
        if root.is_file():
            yield _item(root.name, root.stat())
            return
        if ".." in Path(self.spec.pattern).parts or Path(self.spec.pattern).is_absolute():
            raise InvalidInput(
                "a pattern is relative and goes down only, such as '**/*.csv'", param="connection.pattern"
            )
        for path in sorted(root.glob(self.spec.pattern)):
            try:
                real = path.resolve()
                about = real.stat()
            except OSError:
                # Gone since the folder was listed, or a link to nothing.
                continue
            hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
            if stat.S_ISREG(about.st_mode) and self.reach.holds(real) and not hidden:
                yield _item(_name(path.relative_to(root)), about)

    def fetch(self, item: Item, target: Path) -> str:
        """Raises SourceUnavailable for a file that changes while it is read, SourceFailed for one that cannot be."""
        root = self.reach.path(self.spec.path)
        path = root if root.is_file() else (root / os.fsencode(item.name).decode(errors="surrogateescape"))
        digest = hashlib.sha256()
        try:
            with path.open("rb") as source, target.open("wb") as out:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
                after = os.fstat(source.fileno())
        except OSError as exc:
            raise SourceFailed(f"{item.name!r} cannot be read: {exc.strerror}") from exc
        if _fingerprint(after) != item.fingerprint:
            raise SourceUnavailable(f"{item.name!r} was changed while it was read")
        return digest.hexdigest()


def _name(path: Path) -> str:
    """As text that a database can hold; a name that is not UTF-8 is shown with its bytes escaped."""
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _item(name: str, about: os.stat_result) -> Item:
    return Item(name, _fingerprint(about), about.st_size)


def _fingerprint(about: os.stat_result) -> str:
    return f"{about.st_size}:{about.st_mtime_ns}"
