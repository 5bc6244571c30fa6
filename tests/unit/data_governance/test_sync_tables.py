"""Syncs of a table that changes: the state is the table, whatever happened to it meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from services.data_governance.sync.reach import Reach
from services.data_governance.sync.run import Plan, State, Synced, sync_rows
from services.data_governance.sync.sqlite import SqliteSource
from services.data_governance.sync.staging import SchemaDrift
from services.data_governance.sync.watch import Watch
from shared.contracts.sources import Options, Sqlite
from shared.errors import InvalidInput

QUIET = Watch(lambda: None, lambda _: None, lambda _: None)


class Shop:
    """A SQLite table `orders`, and the states that syncs of it made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "shop.db"
        self.state = State()
        self.synced: Synced | None = None
        self._number = 0
        self.run("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, amount INTEGER, at INTEGER)")

    def run(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    def add(self, first: int, last: int, at: int = 1000) -> None:
        self.run(
            *(f"INSERT INTO orders VALUES ({n}, '品 {n}', {n * 10}, {at})" for n in range(first, last + 1))
        )

    def sync(self, *, full: bool = False, deletes: bool = True, **given: Any) -> dict[str, Any]:
        """Sync, and take the state over; returns the report."""
        self._number += 1
        scratch = self.folder / f"sync-{self._number}"
        scratch.mkdir()
        options = Options(**given.pop("options", {}))
        spec = Sqlite(kind="sqlite", path=str(self.path), table="orders", **given)
        now = datetime.fromisoformat("2026-01-01") + timedelta(hours=self._number)
        plan = Plan("shop", options, full, deletes, now)
        source = SqliteSource(spec, Reach(folders=(self.folder,)))
        done = sync_rows(source, self.state, plan, scratch, QUIET)
        self.synced = done
        before = self.state
        quarantine = done.quarantine or (before.quarantine if done.quarantine_rows else None)
        self.state = State(done.columns, done.snapshot or before.snapshot, done.rows, quarantine, done.mark)
        return done.report

    def rows(self) -> list[dict[str, Any]]:
        assert self.state.snapshot is not None
        return [
            {name: value for name, value in row.items() if name != "_origin"}
            for row in pq.read_table(self.state.snapshot).to_pylist()
        ]

    def origins(self) -> dict[str, dict[str, Any]]:
        assert self.state.snapshot is not None
        found = pq.read_table(self.state.snapshot).column("_origin").to_pylist()
        return {origin["key"]: origin for origin in found}

    def bad(self) -> dict[str, str]:
        if self.state.quarantine is None:
            return {}
        return {row["key"]: row["reason"] for row in pq.read_table(self.state.quarantine).to_pylist()}

    def table(self, where: str = "1") -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.path)) as connection:
            cursor = connection.execute(f"SELECT * FROM orders WHERE {where} ORDER BY CAST(id AS TEXT)")
            return [dict(zip([c[0] for c in cursor.description], row, strict=True)) for row in cursor]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def counts(report: dict[str, Any], *names: str) -> tuple[int, ...]:
    return tuple(report["rows"][name] for name in names)


def test_a_first_sync_is_the_table_and_says_where_each_row_is_from(shop: Shop) -> None:
    shop.add(1, 12)
    report = shop.sync()
    assert shop.rows() == shop.table()
    assert counts(report, "read", "inserted", "updated", "deleted") == (12, 12, 0, 0)
    assert shop.origins()["7"] == {
        "source": "shop",
        "key": "7",
        "item": None,
        "synced_at": shop.origins()["1"]["synced_at"],
    }


def test_a_second_sync_finds_inserts_updates_and_deletes_and_leaves_the_rest_alone(shop: Shop) -> None:
    shop.add(1, 10)
    shop.sync()
    before = shop.origins()
    shop.run("UPDATE orders SET amount = 7 WHERE id = 3", "DELETE FROM orders WHERE id IN (5, 6)")
    shop.add(11, 12)
    report = shop.sync()
    assert counts(report, "inserted", "updated", "deleted", "unchanged") == (2, 1, 2, 7)
    assert shop.rows() == shop.table()
    after = shop.origins()
    assert after["1"] == before["1"]
    assert after["3"]["synced_at"] > before["3"]["synced_at"]


def test_a_sync_of_what_has_not_changed_makes_no_new_state(shop: Shop) -> None:
    shop.add(1, 5)
    shop.sync()
    report = shop.sync()
    assert shop.synced is not None
    assert (shop.synced.snapshot, report["changed"]) == (None, False)


def test_a_cursor_reads_what_changed_and_no_more(shop: Shop) -> None:
    shop.add(1, 9, at=1000)
    shop.add(10, 10, at=1500)
    shop.sync(cursor="at", overlap=5)
    shop.run("UPDATE orders SET amount = 1, at = 2000 WHERE id = 2", "DELETE FROM orders WHERE id = 9")
    shop.add(11, 11, at=2000)
    report = shop.sync(cursor="at", overlap=5)
    assert report["mode"] == "incremental"
    assert counts(report, "read", "updated", "inserted", "deleted", "unchanged") == (3, 1, 1, 1, 1)
    assert shop.rows() == shop.table()


def test_rows_within_the_overlap_are_read_again_and_not_doubled(shop: Shop) -> None:
    shop.add(1, 10, at=1000)
    shop.sync(cursor="at", overlap=5)
    shop.add(11, 11, at=997)
    report = shop.sync(cursor="at", overlap=5)
    assert counts(report, "read", "inserted", "unchanged") == (11, 1, 10)
    assert shop.rows() == shop.table()


def test_a_row_that_came_behind_the_cursor_is_found_by_its_key(shop: Shop) -> None:
    shop.add(1, 10, at=1000)
    shop.sync(cursor="at", overlap=5)
    shop.add(11, 12, at=10)
    report = shop.sync(cursor="at", overlap=5)
    assert (report["mode"], report["late"]) == ("full", 2)
    assert shop.rows() == shop.table()
    told = report["rows"]
    assert told["read"] == sum(
        told[n] for n in ("inserted", "updated", "unchanged", "quarantined", "repeated")
    )


def test_rows_that_are_gone_stay_until_deletes_are_looked_for(shop: Shop) -> None:
    shop.add(1, 4)
    shop.sync()
    shop.run("DELETE FROM orders WHERE id = 2")
    assert counts(shop.sync(deletes=False), "deleted") == (0,)
    assert len(shop.rows()) == 4
    assert counts(shop.sync(), "deleted") == (1,)
    assert shop.rows() == shop.table()


def test_an_added_column_is_taken_in_with_the_values_of_every_row(shop: Shop) -> None:
    shop.add(1, 4, at=1000)
    shop.sync(cursor="at", overlap=5)
    shop.run("ALTER TABLE orders ADD COLUMN note TEXT DEFAULT 'new'")
    report = shop.sync(cursor="at", overlap=5, deletes=False)
    assert report["drift"]["added"] == [{"column": "note", "type": "text"}]
    assert shop.rows() == shop.table()


def test_a_column_that_changed_once_costs_one_full_read(shop: Shop) -> None:
    shop.add(1, 4, at=1000)
    shop.add(5, 5, at=2000)
    shop.sync(cursor="at", overlap=5)
    shop.run("ALTER TABLE orders ADD COLUMN note TEXT DEFAULT 'x'")
    modes = [shop.sync(cursor="at", overlap=5)["mode"] for _ in range(2)]
    assert modes == ["full", "incremental"]
    assert shop.rows() == shop.table()


def test_rows_that_do_not_fit_a_changed_type_go_to_quarantine_and_come_back_mended(shop: Shop) -> None:
    shop.add(1, 6)
    shop.sync()
    shop.run(
        "UPDATE orders SET amount = 'n/a' WHERE id IN (2, 4)", "UPDATE orders SET amount = '55' WHERE id = 5"
    )
    report = shop.sync()
    assert counts(report, "quarantined", "withdrawn", "updated") == (2, 2, 1)
    assert report["drift"]["changed"] == [{"column": "amount", "was": "integer", "now": "text", "rows": 2}]
    assert shop.rows() == [row | {"amount": int(row["amount"])} for row in shop.table("id NOT IN (2, 4)")]
    assert set(shop.bad()) == {"2", "4"}
    assert "amount" in shop.bad()["2"]
    shop.run("UPDATE orders SET amount = 9 WHERE id = 2", "DELETE FROM orders WHERE id = 4")
    report = shop.sync()
    assert (report["quarantine_total"], shop.bad()) == (0, {})
    assert shop.rows() == [row | {"amount": int(row["amount"])} for row in shop.table()]


def test_a_quarantined_row_stays_known_while_a_cursor_passes_it_by(shop: Shop) -> None:
    shop.add(1, 3, at=1000)
    shop.run("UPDATE orders SET amount = 'x' WHERE id = 2")
    shop.sync(cursor="at", overlap=5, options={"types": {"amount": "integer"}})
    shop.add(4, 4, at=5000)
    report = shop.sync(cursor="at", overlap=5, options={"types": {"amount": "integer"}})
    assert (report["quarantine_total"], list(shop.bad())) == (1, ["2"])
    assert len(shop.rows()) + len(shop.bad()) == len(shop.table())


def test_a_removed_column_is_reported_and_keeps_its_values(shop: Shop) -> None:
    shop.add(1, 3)
    shop.sync()
    shop.run("ALTER TABLE orders DROP COLUMN item")
    shop.run("INSERT INTO orders VALUES (4, 40, 1)")
    report = shop.sync()
    assert report["drift"]["removed"] == ["item"]
    assert counts(report, "inserted", "unchanged") == (1, 3)
    assert [row["item"] for row in shop.rows()] == ["品 1", "品 2", "品 3", None]


def test_a_removed_column_can_be_dropped(shop: Shop) -> None:
    shop.add(1, 3)
    shop.sync()
    shop.run("ALTER TABLE orders DROP COLUMN item")
    shop.sync(options={"removed": "drop"})
    assert shop.rows() == shop.table()


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ("ALTER TABLE orders ADD COLUMN note TEXT", {"added": "fail"}),
        ("ALTER TABLE orders DROP COLUMN item", {"removed": "fail"}),
        ("UPDATE orders SET amount = 'x' WHERE id = 1", {"changed": "fail"}),
    ],
)
def test_a_policy_of_failing_fails_the_sync_and_names_the_column(
    shop: Shop, change: str, option: dict[str, str]
) -> None:
    shop.add(1, 2)
    shop.sync()
    shop.run(change)
    with pytest.raises(SchemaDrift, match=r"`(note|item|amount)`"):
        shop.sync(options=option)


def test_an_added_column_can_be_ignored(shop: Shop) -> None:
    shop.add(1, 2)
    shop.sync()
    shop.run("ALTER TABLE orders ADD COLUMN note TEXT DEFAULT 'x'")
    report = shop.sync(options={"added": "ignore"})
    assert report["drift"]["ignored"] == ["note"]
    assert "note" not in shop.rows()[0]


def test_columns_that_differ_by_case_alone_stay_apart(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.run(
        "DROP TABLE orders", 'CREATE TABLE orders (id INTEGER PRIMARY KEY, "key" TEXT, "n" TEXT, "item" TEXT)'
    )
    shop.run("INSERT INTO orders VALUES (1, 'a', 'b', 'c')")
    shop.sync()
    assert shop.rows() == shop.table()


def test_a_row_without_its_key_goes_to_quarantine(shop: Shop) -> None:
    shop.run("INSERT INTO orders VALUES (1, NULL, 1, 1)", "INSERT INTO orders VALUES (2, 'a', 1, 1)")
    report = shop.sync(key=("item",))
    assert counts(report, "inserted", "quarantined") == (1, 1)
    assert shop.rows() == shop.table("item = 'a'")


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"cursor": "att"}, "connection.cursor"),
        ({"key": ("nope",)}, "connection.key"),
        ({"columns": ("id", "amuont")}, "connection.columns"),
    ],
)
def test_a_column_that_is_not_there_is_refused_by_name(shop: Shop, given: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        shop.sync(**given)
    assert caught.value.param == param


@pytest.mark.parametrize("path", ["/etc/passwd", "{}/../../etc/passwd", "relative.db", "{}/absent.db"])
def test_a_database_outside_of_the_allowed_folders_is_refused(shop: Shop, path: str) -> None:
    spec = Sqlite(kind="sqlite", path=path.format(shop.folder), table="orders")
    opening: Callable[[], Any] = SqliteSource(spec, Reach(folders=(shop.folder,))).open().__enter__
    with pytest.raises(InvalidInput) as caught:
        opening()
    assert caught.value.code in ("path_forbidden", "path_missing")
