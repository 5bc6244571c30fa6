"""What is different between two versions, row by row: exact counts, and samples. Reads Parquet through DuckDB."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow.parquet as pq

from services.data_governance.lineage.row_index import parts
from services.data_governance.warehouse.sandbox import plain
from shared.errors import HeliuError

MEMORY = "1GB"
KEYS = {"row": "_row_id", "id": "id"}
# What a row says, whatever it is called and wherever it came from.
SAID = ("messages", "text", "label", "meta")
MOST_CHARS = 2_000
POLL_S = 0.2

# Rows of one key are told apart by their order among each other, so that none is counted twice.
SIDE = """
SELECT {key} AS key, row_number() OVER (PARTITION BY {key} ORDER BY _row_id) AS turn, md5({said}) AS said, split,
    {said} AS shown FROM read_parquet($files)"""
JOINED = """
CREATE TEMP TABLE joined AS SELECT coalesce(a.key, b.key) AS key, a.said AS before, b.said AS after,
    a.split AS split_before, b.split AS split_after, left(a.shown, {chars}) AS shown_before,
    left(b.shown, {chars}) AS shown_after
FROM ({before}) a FULL JOIN ({after}) b ON a.key = b.key AND a.turn = b.turn"""
COUNTS = """
SELECT count(*) FILTER (before IS NULL) AS added, count(*) FILTER (after IS NULL) AS removed,
    count(*) FILTER (before <> after) AS changed, count(*) FILTER (before = after) AS unchanged,
    count(*) FILTER (split_before <> split_after) AS moved FROM joined"""
SAMPLES = {
    "added": "SELECT key, shown_after FROM joined WHERE before IS NULL ORDER BY key LIMIT ?",
    "removed": "SELECT key, shown_before FROM joined WHERE after IS NULL ORDER BY key LIMIT ?",
    "changed": "SELECT key, shown_before, shown_after FROM joined WHERE before <> after ORDER BY key LIMIT ?",
    "moved": "SELECT key, split_before, split_after FROM joined WHERE split_before <> split_after ORDER BY key LIMIT ?",
}


def diff(
    before: Path,
    after: Path,
    scratch: Path,
    *,
    key: Literal["row", "id"],
    samples: int,
    cancelled: Callable[[], bool],
) -> dict[str, Any]:
    """`{"counts": {"added", "removed", "changed", "unchanged", "moved"}, "samples": {...}}`.

    A row is the same by its id in the platform (`row`) or in its source (`id`), changed where it says something
    else, and moved where it changed its split. Raises HeliuError (`client_closed_request`) once it is cancelled.
    """
    connection = duckdb.connect(config={"memory_limit": MEMORY, "threads": 1, "temp_directory": str(scratch)})
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(connection, cancelled, ended), daemon=True)
    watcher.start()
    try:
        sides = [_side(folder, key) for folder in (before, after)]
        connection.execute(JOINED.format(before=sides[0], after=sides[1], chars=MOST_CHARS))
        counted = connection.execute(COUNTS).fetchone()
        assert counted is not None
        names = ("added", "removed", "changed", "unchanged", "moved")
        shown = {name: _sample(connection, sql, samples) for name, sql in SAMPLES.items()}
        return {"counts": dict(zip(names, counted, strict=True)), "samples": shown}
    except duckdb.InterruptException as exc:
        raise HeliuError("the client has gone", code="client_closed_request") from exc
    finally:
        ended.set()
        watcher.join()
        connection.close()


def _side(folder: Path, key: Literal["row", "id"]) -> str:
    files = parts(folder)
    there = pq.read_schema(files[0]).names
    said = ", ".join(f"{name} := {name}" for name in SAID if name in there)
    listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
    sql = SIDE.format(key=KEYS[key], said=f"CAST(to_json(struct_pack({said})) AS VARCHAR)")
    return sql.replace("$files", f"[{listed}]")


def _sample(connection: duckdb.DuckDBPyConnection, sql: str, limit: int) -> list[dict[str, Any]]:
    cursor = connection.execute(sql, [limit])
    names = [column[0] for column in cursor.description or ()]
    return [
        {_name(name): _said(value) for name, value in zip(names, row, strict=True)}
        for row in cursor.fetchall()
    ]


def _name(column: str) -> str:
    return {
        "shown_before": "before",
        "shown_after": "after",
        "split_before": "from",
        "split_after": "to",
    }.get(column, column)


def _said(value: Any) -> Any:
    """What a row says as it is; one that is too long stays text, cut."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return plain(value)


def _watch(
    connection: duckdb.DuckDBPyConnection, cancelled: Callable[[], bool], ended: threading.Event
) -> None:
    while not ended.wait(POLL_S):
        if cancelled():
            connection.interrupt()
