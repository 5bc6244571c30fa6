"""Reads a table over any SQL driver: which columns, which key, what changed since a cursor. Knows no driver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from services.data_governance.sync.reading import Mark, Record
from services.data_governance.sync.values import before, cursor_in, cursor_out
from shared.contracts.recipe_text import did_you_mean
from shared.contracts.sources import ColumnType, MySql, Postgres, Sqlite
from shared.errors import InvalidInput

BATCH_ROWS = 2000


class Dialect(Protocol):
    """One connection inside one transaction that reads the same state throughout."""

    placeholder: str

    def quoted(self, name: str) -> str: ...

    def table(self) -> str:
        """The table as a query names it."""
        ...

    def described(self) -> tuple[Mapping[str, ColumnType], tuple[str, ...]]:
        """Columns in order with their types, none where there is no such table, and the primary key."""
        ...

    def stream(self, query: str, parameters: Sequence[Any]) -> Iterator[Sequence[Record]]: ...


class TableReading:
    """A `RowReading` of one table. Raises InvalidInput for a table or column that is not there."""

    lists_keys = True

    def __init__(self, dialect: Dialect, spec: Sqlite | Postgres | MySql) -> None:
        self._dialect = dialect
        self._spec = spec
        found, primary = dialect.described()
        if not found:
            raise InvalidInput(
                f"there is no table {spec.table!r}, or this user may not see it", param="connection.table"
            )
        for where, names in (("columns", spec.columns or ()), ("key", spec.key), ("cursor", self._cursor())):
            _check_names(names, found, f"connection.{where}")
        self.key: tuple[str, ...] = spec.key or primary
        if not self.key:
            raise InvalidInput(
                f"{spec.table!r} has no primary key; name columns that tell its rows apart in connection.key",
                param="connection.key",
            )
        wanted = (*spec.columns, *self.key, *self._cursor()) if spec.columns else tuple(found)
        self.columns: Mapping[str, ColumnType] = {n: kind for n, kind in found.items() if n in wanted}
        self.mark: dict[str, Any] = {}

    @property
    def incremental(self) -> bool:
        return self._spec.cursor is not None

    def _cursor(self) -> tuple[str, ...]:
        return (self._spec.cursor,) if self._spec.cursor is not None else ()

    def rows(self, mark: Mark, whole: bool) -> Iterator[Sequence[Record]]:
        """A row without a cursor value may have changed whenever one looks."""
        cursor, where, parameters = self._spec.cursor, "", []
        self.mark = {name: mark[name] for name in mark if name == "cursor"}
        if cursor is not None and not whole and "cursor" in mark:
            place = self._dialect.quoted(cursor)
            where = f" WHERE {place} >= {self._dialect.placeholder} OR {place} IS NULL"
            parameters = [before(cursor_in(mark["cursor"]), self._spec.overlap)]
        for records in self._select(self.columns, where, parameters):
            if cursor is not None:
                self._advance(cursor, records)
            yield records

    def all_keys(self) -> Iterator[Sequence[Record]]:
        return self._select(self.key, "", [])

    def _select(
        self, names: Sequence[str] | Mapping[str, Any], where: str, parameters: Sequence[Any]
    ) -> Iterator[Sequence[Record]]:
        chosen = ", ".join(map(self._dialect.quoted, names))
        return self._dialect.stream(f"SELECT {chosen} FROM {self._dialect.table()}{where}", parameters)

    def _advance(self, cursor: str, records: Sequence[Record]) -> None:
        values = [record[cursor] for record in records if record[cursor] is not None]
        if "cursor" in self.mark:
            values.append(cursor_in(self.mark["cursor"]))
        try:
            if values:
                self.mark = {"cursor": cursor_out(max(values))}
        except TypeError as exc:
            kinds = sorted({type(value).__name__ for value in values})
            raise InvalidInput(
                f"the cursor `{cursor}` holds values of {' and '.join(kinds)}, which have no order; "
                "name another column, or none",
                code="cursor_unusable",
                param="connection.cursor",
            ) from exc


def _check_names(names: Sequence[str], found: Mapping[str, Any], param: str) -> None:
    for name in names:
        if name not in found:
            raise InvalidInput(
                f"{param}: the table has no column `{name}`; {did_you_mean(name, list(found)[:50])}",
                code="unknown_column",
                param=param,
            )
