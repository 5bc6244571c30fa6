"""Runs one query in a child process, for as long as it may take and its client waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from services.data_governance.lineage.row_index import parts
from shared.child import Child
from shared.errors import HeliuError, InvalidInput

CHILD = "services.data_governance.warehouse.query_child"
MEMORY_MB = 512
POLL_S = 0.05


def query(
    cache: Path,
    tables: Sequence[tuple[str, Path]],
    sql: str,
    *,
    max_rows: int,
    max_bytes: int,
    max_seconds: float,
    cancelled: Callable[[], bool],
) -> dict[str, Any]:
    """`{"columns", "rows", "truncated", "seconds"}`. `tables` are (name, folder of a version under `cache`).

    Raises InvalidInput for what is wrong with the query, its need of memory and time included, and HeliuError
    (`client_closed_request`) once it is cancelled.
    """
    began = time.monotonic()
    child = Child(CHILD)
    try:
        child.send(
            {
                "folder": str(cache.absolute()),
                "tables": [
                    {"name": name, "files": [str(part.relative_to(cache)) for part in parts(folder)]}
                    for name, folder in tables
                ],
                "sql": sql,
                "max_rows": max_rows,
                "max_bytes": max_bytes,
                "memory_mb": MEMORY_MB,
            }
        )
        for frame in child.frames(POLL_S):
            if cancelled():
                raise HeliuError("the client has gone", code="client_closed_request")
            if frame is not None:
                return _answer(frame, time.monotonic() - began)
            if time.monotonic() - began > max_seconds:
                raise InvalidInput(
                    f"the query ran for {max_seconds:g} s, which is its limit; ask for less, or for more time "
                    "with max_seconds",
                    code="query_timeout",
                    param="sql",
                )
        raise InvalidInput(
            f"the query brought its process down ({child.how_it_ended()}); ask for less at once",
            code="query_too_large",
            param="sql",
        )
    finally:
        child.kill()
        child.close()


def _answer(frame: dict[str, Any], seconds: float) -> dict[str, Any]:
    if frame["type"] == "error":
        raise InvalidInput(frame["message"], code=frame["code"], param=frame["param"])
    told = {name: frame[name] for name in ("columns", "rows", "truncated")}
    return {**told, "seconds": round(seconds, 3)}
