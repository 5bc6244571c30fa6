"""A DuckDB that can read the files of some versions and nothing else: no other file, no network, no extension.

https://duckdb.org/docs/2.0/operations_manual/securing_duckdb/overview.html. Runs in a process of its own, which has
limits of the operating system's too (`query_child`).
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from typing import Any

import duckdb

from shared.errors import InvalidInput

CONFIG: Mapping[str, Any] = {
    "threads": 1,
    # Nothing is spilled: a query that does not fit is refused.
    "max_temp_directory_size": "0MB",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
}
EXPLAIN = re.compile(r"\s*explain(\s+analyze)?\s", re.IGNORECASE)
AT_ONCE = 256
MOST_MESSAGE = 2_000


def open_sandbox(tables: Sequence[tuple[str, Sequence[str]]], memory_mb: int) -> duckdb.DuckDBPyConnection:
    """A locked connection with a view of each (name, Parquet files); the first of equal names counts."""
    connection = duckdb.connect(":memory:", config={**CONFIG, "memory_limit": f"{memory_mb}MB"})
    files = [path for _, paths in tables for path in paths]
    connection.execute(f"SET allowed_paths = [{', '.join(map(_literal, files))}]")
    connection.execute("SET enable_external_access = false")
    for name, paths in tables:
        columns = f"[{', '.join(map(_literal, paths))}]"
        connection.execute(f"CREATE VIEW IF NOT EXISTS {_identifier(name)} AS FROM read_parquet({columns})")
    connection.execute("SET lock_configuration = true")
    return connection


def check(sql: str) -> None:
    """Raise InvalidInput unless it is one statement that only reads."""
    try:
        statements = duckdb.extract_statements(sql)
        asked = EXPLAIN.match(sql)
        inner = duckdb.extract_statements(sql[asked.end() :]) if asked else statements
    except duckdb.Error as exc:
        raise told(exc) from exc
    if len(statements) != 1:
        raise InvalidInput(f"send one statement, got {len(statements)}", code="invalid_sql", param="sql")
    if any(statement.type != duckdb.StatementType.SELECT for statement in inner):
        kind = str(inner[0].type).rpartition(".")[2]
        raise InvalidInput(
            f"versions never change, and {kind} is not served here; send one SELECT",
            code="sql_not_allowed",
            param="sql",
        )


def run(connection: duckdb.DuckDBPyConnection, sql: str, max_rows: int, max_bytes: int) -> dict[str, Any]:
    """`{"columns", "rows", "truncated"}`: as many rows as fit both limits. Raises InvalidInput."""
    check(sql)
    rows: list[list[Any]] = []
    size, truncated = 0, False
    try:
        cursor = connection.execute(sql)
        columns = [{"name": column[0], "type": str(column[1])} for column in cursor.description or ()]
        while not truncated and (some := cursor.fetchmany(min(AT_ONCE, max_rows + 1 - len(rows)))):
            for values in some:
                row = [plain(value) for value in values]
                size += len(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
                if len(rows) == max_rows or size > max_bytes:
                    truncated = True
                    break
                rows.append(row)
    except duckdb.Error as exc:
        raise told(exc) from exc
    return {"columns": columns, "rows": rows, "truncated": truncated}


def told(exc: duckdb.Error) -> InvalidInput:
    """DuckDB's error, which names the place and often what would be right."""
    if isinstance(exc, duckdb.OutOfMemoryException):
        return InvalidInput(
            "the query needs more memory than one may have; select fewer columns or rows, or aggregate first",
            code="query_too_large",
            param="sql",
        )
    return InvalidInput(str(exc).strip()[:MOST_MESSAGE], code="invalid_sql", param="sql")


def plain(value: Any) -> Any:
    """A value as JSON has it: moments and exact numbers as text, bytes as base64."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
