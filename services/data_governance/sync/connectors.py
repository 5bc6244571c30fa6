"""From the description of a source to the connector that reads it, and what a test of one tells."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from services.data_governance.sync.api import ApiSource
from services.data_governance.sync.files import FolderSource
from services.data_governance.sync.mysql import MySqlSource
from services.data_governance.sync.postgres import PostgresSource
from services.data_governance.sync.reach import Reach
from services.data_governance.sync.reading import ItemSource, RowSource
from services.data_governance.sync.s3 import S3Source
from services.data_governance.sync.sqlite import SqliteSource
from services.data_governance.sync.watch import Watch
from services.data_governance.sync.web import Web
from shared.contracts.sources import S3, Api, Connection, Files, MySql, Postgres, Sqlite
from shared.errors import HeliuError

SHOWN = 1000


class TestFailed(HeliuError):
    """The test of a source found something wrong."""

    __test__ = False
    code = "source_test_failed"


def row_source(
    spec: Sqlite | Postgres | MySql | Api, credentials: Mapping[str, Any], reach: Reach, watch: Watch
) -> RowSource:
    """The connector of a source that gives rows."""
    if isinstance(spec, Sqlite):
        return SqliteSource(spec, reach)
    if isinstance(spec, Postgres):
        return PostgresSource(spec, credentials, reach)
    if isinstance(spec, MySql):
        return MySqlSource(spec, credentials, reach)
    return ApiSource(spec, credentials, reach, watch)


def item_source(spec: Files | S3, credentials: Mapping[str, Any], reach: Reach, watch: Watch) -> ItemSource:
    """The connector of a source that holds files; close it."""
    if isinstance(spec, Files):
        return FolderSource(spec, reach)
    return S3Source(spec, credentials, Web(reach, watch))


def look(spec: Connection, credentials: Mapping[str, Any], reach: Reach, watch: Watch) -> dict[str, Any]:
    """Connect and look: `columns` and `key` of rows, or how many `items` there are. Raises TestFailed."""
    try:
        if isinstance(spec, (Files, S3)):
            return _look_at_items(item_source(spec, credentials, reach, watch))
        with row_source(spec, credentials, reach, watch).open() as reading:
            first = next(iter(reading.rows({}, True)), ())
            columns = reading.columns or dict.fromkeys(name for record in first[:100] for name in record)
            return {"columns": list(columns), "key": list(reading.key), "rows_seen": len(first)}
    except HeliuError as exc:
        raise TestFailed(exc.message, param=exc.param) from exc


def _look_at_items(source: ItemSource) -> dict[str, Any]:
    try:
        found = [item.name for item in islice(source.items(), SHOWN + 1)]
    finally:
        source.close()
    return {"items": len(found[:SHOWN]), "more": len(found) > SHOWN, "first": found[:5]}
