"""What a connector is: rows that a source gives, or items (files, objects) that hold rows. Knows no source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from shared.contracts.sources import ColumnType

Record = Mapping[str, Any]
Mark = Mapping[str, Any]


class Unmodified(Exception):
    """The source says that nothing has changed since the mark."""


class RowReading(Protocol):
    """One consistent look at a table. `columns` None: the rows themselves tell."""

    @property
    def columns(self) -> Mapping[str, ColumnType] | None: ...

    @property
    def key(self) -> tuple[str, ...]: ...

    @property
    def lists_keys(self) -> bool:
        """Whether `all_keys` can be asked."""
        ...

    @property
    def incremental(self) -> bool:
        """Whether `rows` can start at a mark."""
        ...

    @property
    def mark(self) -> dict[str, Any]:
        """How far it was read, once `rows` has ended, as JSON."""
        ...

    def rows(self, mark: Mark, whole: bool) -> Iterator[Sequence[Record]]:
        """All rows, or those that may have changed since a mark. Raises Unmodified where the mark shows that none
        has; an empty mark shows nothing."""
        ...

    def all_keys(self) -> Iterator[Sequence[Record]]:
        """The key columns of every row, as they are in the same look."""
        ...


class RowSource(Protocol):
    """`open` connects, and reads nothing yet but what the columns are."""

    def open(self) -> AbstractContextManager[RowReading]: ...


@dataclass(frozen=True)
class Item:
    """A file or object. Its fingerprint is another one when its content may be another one."""

    name: str
    fingerprint: str
    size: int


class ItemSource(Protocol):
    """Files or objects."""

    @property
    def key(self) -> tuple[str, ...]:
        """Columns that name a row within its item; without any its place there does."""
        ...

    def items(self) -> Iterator[Item]: ...

    def fetch(self, item: Item, target: Path) -> str:
        """Copy the content to `target`; returns its digest."""
        ...

    def close(self) -> None: ...
