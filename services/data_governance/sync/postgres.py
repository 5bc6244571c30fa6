"""Tables and views of a Postgres, in one read-only transaction of a single state."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.datetime import DateLoader, TimestampLoader, TimestamptzLoader

from services.data_governance.sync.reach import CONNECT_S, Reach, failed
from services.data_governance.sync.reading import Record
from services.data_governance.sync.tables import BATCH_ROWS, TableReading
from shared.contracts.sources import ColumnType, Postgres

COLUMNS = """
SELECT a.attname AS name, CASE WHEN t.typtype = 'd' THEN b.typname ELSE t.typname END AS type
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""

PRIMARY = """
SELECT a.attname AS name FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indrelid = to_regclass(%s) AND i.indisprimary ORDER BY array_position(i.indkey::int2[], a.attnum)"""

TYPES: Mapping[str, ColumnType] = {
    "bool": "boolean",
    **dict.fromkeys(("int2", "int4", "int8", "oid"), "integer"),
    **dict.fromkeys(("float4", "float8"), "number"),
    "numeric": "decimal",
    **dict.fromkeys(("timestamp", "timestamptz"), "timestamp"),
    "date": "date",
    **dict.fromkeys(("json", "jsonb", "record"), "json"),
    "bytea": "binary",
}
# The class of errors that another try may not meet: connection, resources, intervention, system, rolled back.
AGAIN = ("08", "53", "57", "58", "40")


@dataclass(frozen=True)
class PostgresSource:
    spec: Postgres
    credentials: Mapping[str, Any]
    reach: Reach

    @contextmanager
    def open(self) -> Iterator[TableReading]:
        """Raises Forbidden, SourceFailed and SourceUnavailable, none of which tells the password."""
        addresses = self.reach.addresses(self.spec.host, self.spec.port)
        try:
            with self._connected(addresses) as connection:
                for kind, loader in LENIENT:
                    connection.adapters.register_loader(kind, loader)
                yield TableReading(_Dialect(connection, self.spec.table), self.spec)
        except psycopg.Error as exc:
            state = exc.sqlstate or ""
            again = isinstance(exc, psycopg.OperationalError) and (not state or state[:2] in AGAIN)
            raise failed(exc, self.credentials, again=again and not _refused(exc)) from exc

    @contextmanager
    def _connected(self, addresses: Sequence[str]) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """Connects to judged addresses alone, and reads nothing of this machine's own settings for libpq."""
        listed = self.reach.is_listed(self.spec.host, self.spec.port)
        modes = {"off": "disable", "prefer": "prefer", "require": "require", "verify": "verify-full"}
        mode = modes[self.spec.tls] if listed else "verify-full"
        connection = psycopg.connect(
            host=",".join([self.spec.host] * len(addresses)),
            hostaddr=",".join(addresses),
            port=self.spec.port,
            dbname=self.spec.database,
            user=self.spec.user,
            password=self.credentials.get("password", ""),
            passfile=os.devnull,
            sslmode=mode,
            sslrootcert="system" if mode == "verify-full" else None,
            gssencmode="disable",
            connect_timeout=int(CONNECT_S),
            keepalives_idle=10,
            tcp_user_timeout=60_000,
            application_name="heliu-sync",
            options="-c timezone=UTC -c default_transaction_read_only=on -c DateStyle=ISO",
            row_factory=dict_row,
        )
        with connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            yield connection


class _Dialect:
    placeholder = "%s"

    def __init__(self, connection: psycopg.Connection[dict[str, Any]], table: str) -> None:
        self._connection = connection
        self._name = table

    def quoted(self, name: str) -> str:
        # A percent sign in a query would be taken for a parameter.
        return '"' + name.replace('"', '""').replace("%", "%%") + '"'

    def table(self) -> str:
        return ".".join(map(self.quoted, self._name.split(".", 1)))

    def described(self) -> tuple[Mapping[str, ColumnType], tuple[str, ...]]:
        name = (self.table().replace("%%", "%"),)
        columns = self._connection.execute(COLUMNS, name).fetchall()
        primary = self._connection.execute(PRIMARY, name).fetchall()
        return {row["name"]: _type(row["type"]) for row in columns}, tuple(row["name"] for row in primary)

    def stream(self, query: str, parameters: Sequence[Any]) -> Iterator[Sequence[Record]]:
        with self._connection.cursor("heliu_sync") as cursor:
            cursor.execute(query.encode(), parameters)
            while rows := cursor.fetchmany(BATCH_ROWS):
                yield rows


def _type(name: str) -> ColumnType:
    return "json" if name.startswith("_") else TYPES.get(name, "text")


def _refused(exc: psycopg.Error) -> bool:
    """A connection that was refused for what it asked for: libpq gives no state then, but the server's words."""
    text = str(exc)
    return any(part in text for part in ("authentication failed", "does not exist", "no password", "pg_hba"))


# 'infinity' and the years beyond 9999 are no dates to Python: as text they fit no column, and the row is told of.
class _Timestamp(TimestampLoader):
    def load(self, data: Any) -> Any:
        try:
            return super().load(data)
        except psycopg.DataError:
            return bytes(data).decode()


class _Timestamptz(TimestamptzLoader):
    def load(self, data: Any) -> Any:
        try:
            return super().load(data)
        except psycopg.DataError:
            return bytes(data).decode()


class _Date(DateLoader):
    def load(self, data: Any) -> Any:
        try:
            return super().load(data)
        except psycopg.DataError:
            return bytes(data).decode()


LENIENT = (("timestamp", _Timestamp), ("timestamptz", _Timestamptz), ("date", _Date))
