"""The state before, and what was read, made into the state after. SQL over the bench; memory is the bench's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.data_governance.sync.bench import BAD_SCHEMA, ORIGIN, ORIGIN_TYPE, Bench, stored

# The last reading of a key in this sync counts: an overlap or a page that moved may give a row twice.
LAST = """
CREATE TABLE last AS SELECT key, max(n) AS n FROM
    (SELECT key, n FROM new UNION ALL SELECT key, n FROM bad) GROUP BY key"""

FRESH = "CREATE VIEW fresh AS SELECT new.* FROM new JOIN last USING (key, n)"

SPOILT = "CREATE VIEW spoilt AS SELECT bad.* FROM bad JOIN last USING (key, n)"

GONE_UNSEEN = """
CREATE TABLE gone AS SELECT key FROM (SELECT key FROM old UNION SELECT key FROM old_bad) held
    ANTI JOIN seen USING (key)"""

GONE_UNREAD = "CREATE TABLE gone AS SELECT key FROM old UNION SELECT key FROM old_bad"

GONE_ITEMS = """
CREATE TABLE gone AS SELECT key FROM (SELECT key, item FROM old UNION SELECT key, item FROM old_bad) held
    WHERE item IN (SELECT item FROM reread)"""

GONE_NONE = "CREATE TABLE gone (key VARCHAR)"

FATE = """
CREATE TABLE fate AS SELECT f.key, CASE WHEN o.key IS NULL THEN 'inserted' WHEN {differs} THEN 'updated'
    ELSE 'unchanged' END AS fate FROM fresh f LEFT JOIN old o ON o.key = f.key"""

DELETED = "SELECT count(*) FROM (SELECT key FROM old SEMI JOIN gone USING (key)) left_out ANTI JOIN last USING (key)"

WITHDRAWN = "SELECT count(*) FROM old SEMI JOIN spoilt USING (key)"

AFTER = """
SELECT key, item, synced, {columns} FROM (
    SELECT f.key, f.item, CASE t.fate WHEN 'unchanged' THEN o.synced ELSE ?::TIMESTAMP END AS synced, {taken}
    FROM fresh f JOIN fate t ON t.key = f.key LEFT JOIN old o ON o.key = f.key
    UNION ALL
    SELECT o.key, o.item, o.synced, {kept} FROM old o ANTI JOIN last USING (key) ANTI JOIN gone USING (key))
ORDER BY key"""

BAD_AFTER = """
CREATE TABLE bad_after AS
SELECT s.key, s.item, s.code, s.reason, s.row, COALESCE(o.since, ?::TIMESTAMP) AS since
FROM spoilt s LEFT JOIN old_bad o ON o.key = s.key
UNION ALL
SELECT key, item, code, reason, row, since FROM old_bad ANTI JOIN last USING (key) ANTI JOIN gone USING (key)"""

BAD_MOVED = """
SELECT count(*) FROM (
    (SELECT key, reason, row FROM bad_after EXCEPT SELECT key, reason, row FROM old_bad)
    UNION ALL (SELECT key, reason, row FROM old_bad EXCEPT SELECT key, reason, row FROM bad_after))"""

# A row that a sync should have seen, was it not behind the cursor: its transaction ended too late for the overlap.
LATE = """
SELECT count(*) FROM seen ANTI JOIN old USING (key) ANTI JOIN old_bad USING (key) ANTI JOIN new USING (key)
    ANTI JOIN bad USING (key)"""

GROUP_ROWS = 8192


@dataclass(frozen=True)
class Merged:
    """Rows by what became of them: read = inserted + updated + unchanged + quarantined + repeated."""

    read: int
    inserted: int
    updated: int
    unchanged: int
    quarantined: int
    repeated: int
    deleted: int
    withdrawn: int
    quarantine_total: int
    quarantine_moved: bool


def merge(bench: Bench, now: datetime, gone: str, kept_columns: frozenset[str]) -> Merged:
    """Decide on every row. `gone` is one of the GONE statements; `kept_columns` keep the values of the state before,
    for the source has them no more."""
    bench.run(LAST)
    bench.run(FRESH)
    bench.run(SPOILT)
    bench.run(gone)
    compared = [p for n, p in zip(bench.columns, bench.places(), strict=True) if n not in kept_columns]
    differs = " OR ".join(
        ["f.item IS DISTINCT FROM o.item", *(f"f.{p} IS DISTINCT FROM o.{p}" for p in compared)]
    )
    bench.run(FATE.format(differs=differs))
    bench.run(BAD_AFTER, [now])
    fates = bench.pairs("SELECT fate, count(*) FROM fate GROUP BY fate")
    read = bench.count("SELECT (SELECT count(*) FROM new) + (SELECT count(*) FROM bad)")
    return Merged(
        read=read,
        inserted=fates.get("inserted", 0),
        updated=fates.get("updated", 0),
        unchanged=fates.get("unchanged", 0),
        quarantined=bench.count("SELECT count(*) FROM spoilt"),
        repeated=read - bench.count("SELECT count(*) FROM last"),
        deleted=bench.count(DELETED),
        withdrawn=bench.count(WITHDRAWN),
        quarantine_total=bench.count("SELECT count(*) FROM bad_after"),
        quarantine_moved=bench.count(BAD_MOVED) > 0,
    )


def write_state(
    bench: Bench,
    path: Path,
    source: str,
    now: datetime,
    *,
    kept: frozenset[str],
    dropped: frozenset[str],
    check: Callable[[], None],
) -> int:
    """The state after as Parquet, in the order of keys; returns its rows. The same rows give the same bytes.

    Of columns that the source has no more, `kept` have their values of before, and `dropped` are left out.
    """
    shown = [(n, p) for n, p in zip(bench.columns, bench.places(), strict=True) if n not in dropped]
    places = [place for _, place in shown]
    fields = [pa.field(name, stored(bench.columns[name])) for name, _ in shown]
    schema = pa.schema([*fields, pa.field(ORIGIN, ORIGIN_TYPE)])
    query = AFTER.format(
        columns=", ".join(places),
        taken=", ".join(f"{'o' if name in kept else 'f'}.{place}" for name, place in shown),
        kept=", ".join(f"o.{place}" for place in places),
    )
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        # Without a column there is no row either.
        for batch in bench.batches(query, [now]) if shown else ():
            check()
            rows += batch.num_rows
            writer.write_batch(_row_batch(batch, schema, places, source), row_group_size=GROUP_ROWS)
    return rows


def _row_batch(batch: pa.RecordBatch, schema: pa.Schema, places: list[str], source: str) -> pa.RecordBatch:
    told = {
        "source": pa.array([source] * batch.num_rows, pa.string()),
        "key": batch.column("key"),
        "item": batch.column("item"),
        "synced_at": batch.column("synced").cast(pa.timestamp("us", "UTC")),
    }
    origin = pa.StructArray.from_arrays(list(told.values()), fields=list(ORIGIN_TYPE))
    columns = [batch.column(p).cast(schema.field(i).type) for i, p in enumerate(places)]
    return pa.RecordBatch.from_arrays([*columns, origin], schema=schema)


def write_quarantine(bench: Bench, path: Path) -> None:
    """Every row that is in quarantine after this sync, in the order of keys."""
    with pq.ParquetWriter(path, BAD_SCHEMA, compression="zstd") as writer:
        for batch in bench.batches("SELECT key, item, code, reason, row, since FROM bad_after ORDER BY key"):
            columns = [batch.column(field.name).cast(field.type) for field in BAD_SCHEMA]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=BAD_SCHEMA))
