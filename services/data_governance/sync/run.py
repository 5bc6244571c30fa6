"""One sync: what changed is read, compared with the state before, and made into the state after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from services.data_governance.sync import documents, merge
from services.data_governance.sync.bench import Bench
from services.data_governance.sync.reading import Item, ItemSource, Mark, RowReading, RowSource, Unmodified
from services.data_governance.sync.staging import Drift, SchemaDrift, Staging, key_text
from services.data_governance.sync.values import Misfit, converter
from services.data_governance.sync.watch import Watch
from shared.contracts.sources import ColumnType, Options
from shared.errors import InvalidInput


@dataclass(frozen=True)
class State:
    """A source as its last sync left it; without a `snapshot` there was none."""

    columns: Mapping[str, ColumnType] = field(default_factory=dict)
    snapshot: Path | None = None
    rows: int = 0
    quarantine: Path | None = None
    mark: Mark = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What this sync shall do. `deletes` looks for rows that are gone; `now` is naive and in UTC."""

    source: str
    options: Options
    full: bool
    deletes: bool
    now: datetime
    max_item_bytes: int = 512 * 1024 * 1024


@dataclass(frozen=True)
class Synced:
    """The state after. `snapshot` None: it is the same as before; so for `quarantine`, unless no row is in it."""

    columns: dict[str, ColumnType]
    snapshot: Path | None
    rows: int
    quarantine: Path | None
    quarantine_rows: int
    mark: dict[str, Any]
    deletes_checked: bool
    report: dict[str, Any]
    items: Sequence[tuple[str, str, str]] = ()
    items_gone: Sequence[str] = ()


def sync_rows(source: RowSource, before: State, plan: Plan, folder: Path, watch: Watch) -> Synced:
    """Sync a table. Raises what the source raises, and SchemaDrift."""
    with Bench(folder) as bench, source.open() as reading:
        staging = _staged(bench, before, plan, reading.key)
        if reading.columns is not None:
            staging.describe(reading.columns)
        described = dict(reading.columns) if reading.columns is not None else None
        drifted = described != before.mark.get("described")
        # A column that is new or another has its values in rows that no cursor tells of.
        fresh = plan.full or before.snapshot is None or drifted
        whole = fresh or not reading.incremental or (plan.deletes and not reading.lists_keys)
        _load(bench, before)
        try:
            _read(staging, reading, {} if fresh else before.mark, whole, watch)
        except Unmodified:
            return _unmodified(before)
        late, gone = 0, merge.GONE_UNREAD if plan.deletes and whole else merge.GONE_NONE
        if plan.deletes and not whole:
            _list_keys(bench, reading, watch)
            late = bench.count(merge.LATE)
            gone = merge.GONE_UNSEEN
            if late:
                _read(staging, reading, {}, True, watch)
                whole, gone = True, merge.GONE_UNREAD
        told = {"mode": "full" if whole else "incremental", "late": late}
        removed = _removed(bench, staging, described=described is not None, whole=whole)
        mark = {**reading.mark, "described": described}
        return _finished(bench, staging, before, plan, folder, watch, gone, removed, mark, told)


def sync_items(
    source: ItemSource,
    known: Mapping[str, tuple[str, str]],
    before: State,
    plan: Plan,
    folder: Path,
    watch: Watch,
) -> Synced:
    """Sync files or objects; `known` has the fingerprint and digest that each had in the state before."""
    with Bench(folder) as bench:
        staging = _staged(bench, before, plan, source.key)
        _load(bench, before)
        full = plan.full or before.snapshot is None
        listed: set[str] = set()
        taken: list[tuple[str, str, str]] = []
        reread: list[str] = []
        for item in source.items():
            watch.check()
            listed.add(item.name)
            fingerprint, digest = known.get(item.name, ("", ""))
            if fingerprint == item.fingerprint and not full:
                continue
            found = _read_item(source, item, "" if full else digest, staging, plan, folder, watch)
            taken.append((item.name, item.fingerprint, found))
            if full or found != digest:
                reread.append(item.name)
        missing = sorted(known.keys() - listed) if plan.deletes else []
        items = pa.table({"item": pa.array([*reread, *missing], pa.string())})
        bench.insert("reread", items)
        told = {
            "mode": "full" if full else "incremental",
            "items": {"seen": len(listed), "read": len(reread), "gone": len(missing)},
        }
        removed = _removed(bench, staging, described=False, whole=full or set(reread) == listed)
        done = _finished(bench, staging, before, plan, folder, watch, merge.GONE_ITEMS, removed, {}, told)
        return Synced(**{**vars(done), "items": taken, "items_gone": missing})


def _staged(bench: Bench, before: State, plan: Plan, key: tuple[str, ...]) -> Staging:
    for name, kind in before.columns.items():
        bench.add_column(name, plan.options.types.get(name, kind))
    return Staging(bench, key, plan.options, first=before.snapshot is None)


def _load(bench: Bench, before: State) -> None:
    if before.snapshot is not None:
        bench.load_old(before.snapshot)
    if before.quarantine is not None:
        bench.load_old_bad(before.quarantine)


def _read(staging: Staging, reading: RowReading, mark: Mark, whole: bool, watch: Watch) -> None:
    for records in reading.rows(mark, whole):
        watch.check()
        staging.take(records)
        watch.progress(staging.rows)
    staging.flush()


def _list_keys(bench: Bench, reading: RowReading, watch: Watch) -> None:
    for records in reading.all_keys():
        watch.check()
        keys = [key_text([_typed(bench, name, record[name]) for name in reading.key]) for record in records]
        bench.insert("seen", pa.table({"key": pa.array(keys, pa.string())}))


def _typed(bench: Bench, name: str, value: Any) -> Any:
    """A part of a key as `Staging` makes it, or the two would not meet."""
    if value is None or name not in bench.columns:
        return value
    try:
        return converter(bench.columns[name])(value)
    except Misfit:
        return value


def _read_item(
    source: ItemSource, item: Item, digest: str, staging: Staging, plan: Plan, folder: Path, watch: Watch
) -> str:
    """Stage the rows of an item unless its digest is the same; returns the digest."""
    if item.size > plan.max_item_bytes:
        reason = f"{item.size} bytes, at most {plan.max_item_bytes} are read"
        staging.refuse(f"{item.name}#", item.name, "file_too_large", reason)
        return f"size:{item.size}"
    target = folder / "item"
    try:
        found = source.fetch(item, target)
        if found == digest:
            return found
        for part in documents.read(target, item.name, watch.check):
            watch.check()
            if isinstance(part, documents.BadPlace):
                staging.refuse(f"{item.name}#{part.place}", item.name, part.code, part.message)
                continue
            staging.take(part.records, item.name, part.places)
            watch.progress(staging.rows)
        return found
    except InvalidInput as exc:
        if isinstance(exc, SchemaDrift):
            raise
        staging.refuse(f"{item.name}#", item.name, exc.code, exc.message)
        return found
    finally:
        target.unlink(missing_ok=True)


def _removed(bench: Bench, staging: Staging, *, described: bool, whole: bool) -> list[str]:
    """Columns of the state before that the source has no more, as far as this sync can tell."""
    staging.flush()
    if described or (whole and staging.rows):
        return [name for name in bench.columns if name not in staging.met]
    return []


def _finished(
    bench: Bench,
    staging: Staging,
    before: State,
    plan: Plan,
    folder: Path,
    watch: Watch,
    gone: str,
    removed: list[str],
    mark: dict[str, Any],
    told: dict[str, Any],
) -> Synced:
    if removed and plan.options.removed == "fail":
        raise SchemaDrift(
            f"column `{removed[0]}` is gone; change the source's options to go on", param="options"
        )
    # A column that one cannot tell to be gone keeps its values in rows that are not read, and that is all.
    kept = frozenset(removed if plan.options.removed == "keep" else ())
    dropped = frozenset(removed if plan.options.removed == "drop" else ())
    merged = merge.merge(bench, plan.now, gone, kept | dropped)
    watch.check()
    columns = {name: kind for name, kind in bench.columns.items() if name not in dropped}
    moved = merged.inserted + merged.updated + merged.deleted + merged.withdrawn > 0
    snapshot, rows = None, before.rows
    if before.snapshot is None or moved or columns != before.columns:
        snapshot = folder / "snapshot.parquet"
        rows = merge.write_state(
            bench, snapshot, plan.source, plan.now, kept=kept, dropped=dropped, check=watch.check
        )
    quarantine = None
    if merged.quarantine_moved and merged.quarantine_total:
        quarantine = folder / "quarantine.parquet"
        merge.write_quarantine(bench, quarantine)
    staging.drift.removed = removed
    report = {**told, **_counts(merged), "rows_total": rows, "drift": _drift(staging.drift)}
    return Synced(
        columns=columns,
        snapshot=snapshot,
        rows=rows,
        quarantine=quarantine,
        quarantine_rows=merged.quarantine_total,
        mark=mark,
        deletes_checked=plan.deletes,
        report={**report, "changed": snapshot is not None, "deletes_checked": plan.deletes},
    )


def _unmodified(before: State) -> Synced:
    """The source itself says that it is as it was."""
    zero = dict.fromkeys(
        ("read", "inserted", "updated", "unchanged", "quarantined", "repeated", "deleted"), 0
    )
    report: dict[str, Any] = {
        "mode": "not modified",
        "rows": {**zero, "withdrawn": 0},
        "rows_total": before.rows,
        "changed": False,
        "deletes_checked": False,
        "drift": _drift(Drift()),
    }
    return Synced(dict(before.columns), None, before.rows, None, -1, dict(before.mark), False, report)


def _counts(merged: merge.Merged) -> dict[str, Any]:
    names = ("read", "inserted", "updated", "unchanged", "quarantined", "repeated", "deleted", "withdrawn")
    return {
        "rows": {name: getattr(merged, name) for name in names},
        "quarantine_total": merged.quarantine_total,
    }


def _drift(drift: Drift) -> dict[str, Any]:
    return {
        "added": [{"column": name, "type": kind} for name, kind in drift.added.items()],
        "ignored": sorted(drift.ignored),
        "changed": [
            {"column": name, "was": was, "now": now, "rows": drift.misfits[name]}
            for name, (was, now) in drift.changed.items()
        ],
        "removed": drift.removed,
    }
