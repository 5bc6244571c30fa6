"""Tables of a SQLite database in an allowed folder, read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from services.data_governance.sync.reach import Reach, failed
from services.data_governance.sync.reading import Record
from services.data_governance.sync.tables import BATCH_ROWS, TableReading
from shared.contracts.sources import ColumnType, Sqlite

# https://www.sqlite.org/datatype3.html, section 3.1, and the names that say more than their affinity.
AFFINITY: tuple[tuple[str, ColumnType], ...] = (
    ("INT", "integer"),
    ("BOOL", "boolean"),
    ("CHAR", "text"),
    ("CLOB", "text"),
    ("TEXT", "text"),
    ("BLOB", "binary"),
    ("REAL", "number"),
    ("FLOA", "number"),
    ("DOUB", "number"),
    ("DEC", "decimal"),
    ("NUMERIC", "decimal"),
)
WAIT_S = 10.0


@dataclass(frozen=True)
class SqliteSource:
    spec: Sqlite
    reach: Reach

    @contextmanager
    def open(self) -> Iterator[TableReading]:
        """Raises InvalidInput for a path that may not be read, SourceFailed for what is no database."""
        path = self.reach.path(self.spec.path)
        try:
            address = f"file:{quote(str(path))}?mode=ro"
            with closing(
                sqlite3.connect(address, uri=True, timeout=WAIT_S, isolation_level=None)
            ) as connection:
                connection.text_factory = _decoded
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA query_only = ON")
                connection.execute("BEGIN")
                yield TableReading(_Dialect(connection, self.spec.table), self.spec)
        except sqlite3.OperationalError as exc:
            raise failed(exc, {}, again="locked" in str(exc) or "busy" in str(exc)) from exc
        except sqlite3.Error as exc:
            raise failed(exc, {}, again=False) from exc


class _Dialect:
    placeholder = "?"

    def __init__(self, connection: sqlite3.Connection, table: str) -> None:
        self._connection = connection
        self._table = table

    def quoted(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def table(self) -> str:
        return self.quoted(self._table)

    def described(self) -> tuple[Mapping[str, ColumnType], tuple[str, ...]]:
        rows = self._connection.execute(
            "SELECT name, type, pk FROM pragma_table_info(?) ORDER BY cid", (self._table,)
        ).fetchall()
        ranked = sorted((pk, name) for name, _, pk in rows if pk)
        return {name: _type(declared) for name, declared, _ in rows}, tuple(name for _, name in ranked)

    def stream(self, query: str, parameters: Sequence[Any]) -> Iterator[Sequence[Record]]:
        cursor = self._connection.execute(query, tuple(parameters))
        names = [column[0] for column in cursor.description]
        while rows := cursor.fetchmany(BATCH_ROWS):
            yield [dict(zip(names, row, strict=True)) for row in rows]


def _decoded(raw: bytes) -> str:
    """Bytes that are no UTF-8 become what no text can hold, so that the row goes to quarantine."""
    return raw.decode("utf-8", "surrogateescape")


def _type(declared: str) -> ColumnType:
    upper = declared.upper()
    return next((kind for part, kind in AFFINITY if part in upper), "text")
