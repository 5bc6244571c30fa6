"""Tables and views of a MySQL or MariaDB, in one read-only transaction of a single state."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pymysql
from pymysql.constants import CR, FIELD_TYPE
from pymysql.converters import conversions
from pymysql.cursors import SSDictCursor

from services.data_governance.sync.reach import CONNECT_S, Reach, SourceFailed, failed
from services.data_governance.sync.reading import Record
from services.data_governance.sync.tables import BATCH_ROWS, TableReading
from shared.contracts.sources import ColumnType, MySql

COLUMNS = """
SELECT column_name AS name, data_type AS type FROM information_schema.columns
WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position"""

PRIMARY = """
SELECT column_name AS name FROM information_schema.statistics
WHERE table_schema = %s AND table_name = %s AND index_name = 'PRIMARY' ORDER BY seq_in_index"""

TYPES: Mapping[str, ColumnType] = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "bigint", "year"), "integer"),
    **dict.fromkeys(("float", "double"), "number"),
    "decimal": "decimal",
    **dict.fromkeys(("datetime", "timestamp"), "timestamp"),
    "date": "date",
    "json": "json",
    **dict.fromkeys(("bit", "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"), "binary"),
}
BEGIN = (
    "SET SESSION time_zone = '+00:00'",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
)
SILENCE_S = 60
# Connection lost, too many of them, shutting down, a deadlock: another try may not meet them.
AGAIN = frozenset({1040, 1053, 1205, 1213, 2002, 2003, 2006, 2013})


@dataclass(frozen=True)
class MySqlSource:
    spec: MySql
    credentials: Mapping[str, Any]
    reach: Reach

    @contextmanager
    def open(self) -> Iterator[TableReading]:
        """Raises Forbidden, SourceFailed and SourceUnavailable, none of which tells the password."""
        try:
            with closing(self._connected()) as connection:
                self._check_tls(connection)
                with connection.cursor() as cursor:
                    for statement in BEGIN:
                        cursor.execute(statement)
                yield TableReading(_Dialect(connection, self.spec), self.spec)
        except (pymysql.Error, OSError) as exc:
            number, text = (*exc.args, "")[:2] if exc.args else (0, "")
            told = Exception(f"{text} ({number})") if isinstance(exc, pymysql.Error) else exc
            raise failed(told, self.credentials, again=isinstance(exc, OSError) or number in AGAIN) from exc

    def _connected(self) -> Any:
        """In the clear only where the source says that it may be, and the server has no TLS."""
        try:
            return self._connect(self._tls())
        except pymysql.OperationalError as exc:
            if self._mode != "prefer" or exc.args[0] != CR.CR_SSL_CONNECTION_ERROR:
                raise
            return self._connect(None)

    def _connect(self, tls: ssl.SSLContext | None) -> Any:
        connection = pymysql.connect(
            host=self.spec.host,
            port=self.spec.port,
            user=self.spec.user,
            password=self.credentials.get("password", ""),
            database=self.spec.database,
            charset="utf8mb4",
            cursorclass=SSDictCursor,
            conv={**conversions, FIELD_TYPE.JSON: json.loads},
            connect_timeout=int(CONNECT_S),
            read_timeout=SILENCE_S,
            ssl=tls,
            local_infile=False,
            defer_connect=True,
        )
        # To a judged address; the driver would ask the resolver once more.
        connection.connect(self.reach.socket(self.spec.host, self.spec.port))
        return connection

    @property
    def _mode(self) -> str:
        return self.spec.tls if self.reach.is_listed(self.spec.host, self.spec.port) else "verify"

    def _tls(self) -> ssl.SSLContext | None:
        if self._mode == "off":
            return None
        context = ssl.create_default_context()
        if self._mode != "verify":
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def _check_tls(self, connection: Any) -> None:
        """The driver goes on in the clear where a server has no TLS."""
        if self._mode in ("require", "verify") and not isinstance(connection._sock, ssl.SSLSocket):
            raise SourceFailed(f"{self.spec.host} speaks no TLS", param="connection.tls")


class _Dialect:
    placeholder = "%s"

    def __init__(self, connection: Any, spec: MySql) -> None:
        self._connection = connection
        database, dot, table = spec.table.partition(".")
        self._name = (database, table) if dot else (spec.database, spec.table)

    def quoted(self, name: str) -> str:
        return "`" + name.replace("`", "``").replace("%", "%%") + "`"

    def table(self) -> str:
        return ".".join(map(self.quoted, self._name))

    def described(self) -> tuple[Mapping[str, ColumnType], tuple[str, ...]]:
        columns, primary = (self._all(query, self._name) for query in (COLUMNS, PRIMARY))
        return {row["name"]: _type(row["type"]) for row in columns}, tuple(row["name"] for row in primary)

    def _all(self, query: str, parameters: Sequence[Any]) -> list[Record]:
        return [row for rows in self.stream(query, parameters) for row in rows]

    def stream(self, query: str, parameters: Sequence[Any]) -> Iterator[Sequence[Record]]:
        with self._connection.cursor() as cursor:
            cursor.execute(query, tuple(parameters))
            while rows := cursor.fetchmany(BATCH_ROWS):
                yield rows


def _type(name: str) -> ColumnType:
    return TYPES.get(name.lower(), "text")
