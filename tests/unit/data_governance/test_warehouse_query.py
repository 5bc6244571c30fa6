"""Queries in their sandbox, the hostile ones too: each in a process of its own, as a worker runs it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data_governance.warehouse.query import query
from services.data_governance.warehouse.sandbox import open_sandbox, run
from shared.errors import HeliuError, InvalidInput

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Asks a version of three rows, named `好的 data`; another one lies beside it and is not to be seen."""
    for folder, texts in (("mine", ["a", "b", "c"]), ("theirs", ["secret"])):
        (tmp_path / folder / "data").mkdir(parents=True)
        ids = [f"row-{n}" for n in range(len(texts))]
        table = pa.table({"_row_id": ids, "text": texts, "n": list(range(len(texts)))})
        pq.write_table(table, tmp_path / folder / "data" / "part-00000.parquet")

    def run(sql: str, **limits: Any) -> dict[str, Any]:
        asked = {"max_rows": 100, "max_bytes": 1_000_000, "max_seconds": 30, "cancelled": lambda: False}
        return query(tmp_path, [("好的 data", tmp_path / "mine")], sql, **{**asked, **limits})

    return run


def test_a_version_is_a_view_with_types_and_rows(ask: Ask) -> None:
    answer = ask(
        "SELECT text, n * 1.5 AS m, DATE '2026-01-02' AS d FROM \"好的 data\" WHERE n > 0 ORDER BY n"
    )
    assert [column["name"] for column in answer["columns"]] == ["text", "m", "d"]
    assert answer["rows"] == [["b", "1.5", "2026-01-02"], ["c", "3.0", "2026-01-02"]]
    assert answer["truncated"] is False


def test_a_result_is_cut_by_rows_and_by_bytes(ask: Ask) -> None:
    by_rows = ask("SELECT range FROM range(1000000)", max_rows=5)
    assert ([row[0] for row in by_rows["rows"]], by_rows["truncated"]) == ([0, 1, 2, 3, 4], True)
    by_bytes = ask("SELECT repeat('x', 1000) FROM range(100)", max_bytes=10_000)
    assert (len(by_bytes["rows"]), by_bytes["truncated"]) == (9, True)


HOSTILE = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/hostname')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM read_parquet('theirs/data/part-00000.parquet')",
    "SELECT * FROM 'mine/../theirs/data/part-00000.parquet'",
    "SELECT * FROM read_parquet('*/data/*.parquet')",
    "SELECT * FROM read_parquet('https://example.com/x.parquet')",
    "SELECT * FROM read_csv('s3://bucket/x.csv')",
    "SELECT getenv('HOME')",
    "INSTALL httpfs",
    "LOAD httpfs",
    "ATTACH 'other.db'",
    "COPY (SELECT 1) TO 'out.csv'",
    "COPY (SELECT 1) TO 'mine/data/part-00000.parquet'",
    "EXPORT DATABASE 'out'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO 'out.csv'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET memory_limit = '64GB'",
    "RESET allowed_paths",
    "PRAGMA database_list",
    "CREATE TABLE t AS SELECT 1",
    'DROP VIEW "好的 data"',
    "CALL pragma_version()",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO 'out.csv'",
    "",
    "SELEC 1",
    "SELECT * FROM nobody",
    "SELECT 'half",
]


def test_what_is_not_a_look_at_the_versions_is_refused(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In this process: each would be refused before it uses anything that the process's own limits are for.
    monkeypatch.chdir(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    sandbox = open_sandbox([("好的 data", ["mine/data/part-00000.parquet"])], 256)
    for sql in HOSTILE:
        with pytest.raises(InvalidInput) as refused:
            run(sandbox, sql, 100, 1_000_000)
        assert (sql, refused.value.code in ("invalid_sql", "sql_not_allowed")) == (sql, True)
        assert refused.value.param == "sql"
    assert run(sandbox, 'SELECT count(*) FROM "好的 data"', 1, 100)["rows"] == [[3]]
    sandbox.close()
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_refusal_comes_back_from_the_process_with_its_place(ask: Ask) -> None:
    with pytest.raises(InvalidInput, match="LINE 1"):
        ask("SELECT * FROM read_csv('/etc/passwd')")


ENDLESS = [
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
    "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000) c WHERE a.range * b.range % 7 = c.range",
]


@pytest.mark.parametrize("sql", ENDLESS)
def test_what_never_ends_is_ended(ask: Ask, sql: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        ask(sql, max_seconds=1)
    assert refused.value.code in ("query_timeout", "query_too_large")


GREEDY = [
    "SELECT array_agg(range) FROM range(1000000000)",
    "SELECT repeat('x', 1500000000)",
    "SELECT * FROM range(100000000) ORDER BY hash(range)",
]


@pytest.mark.parametrize("sql", GREEDY)
def test_what_needs_too_much_memory_is_refused(ask: Ask, sql: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        ask(sql)
    assert refused.value.code in ("query_too_large", "invalid_sql", "query_timeout")


def test_a_query_whose_client_goes_is_ended(ask: Ask) -> None:
    gone = threading.Event()
    timer = threading.Timer(0.5, gone.set)
    timer.start()
    with pytest.raises(HeliuError) as ended:
        ask(ENDLESS[0], cancelled=gone.is_set)
    assert ended.value.code == "client_closed_request"
    timer.join()
