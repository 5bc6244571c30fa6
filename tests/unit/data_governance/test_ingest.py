"""Reading: the line of every bad row, formats by content, and memory that does not grow with the input."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data_governance.ingest import Source, peek
from services.data_governance.ingest import lines as lines_module
from services.data_governance.ingest import parquet as parquet_module
from services.data_governance.rows import Row
from shared.contracts.recipe import InputMapping
from shared.errors import InvalidInput

QA = InputMapping(prompt="q", completion="a")
GOOD = {"q": "你好", "a": "您好"}


def _read(path: Path, mapping: InputMapping = QA, name: str | None = None) -> tuple[list[Row], Source]:
    source = Source.open(path, name or path.name, mapping, "0" * 64)
    return [row for batch in source.batches(3) for row in batch], source


def _bad(source: Source) -> list[tuple[int, str]]:
    return [(note.line, note.code) for note in source.bad.listed]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"q": "\xff", "a": "b"}', "invalid_utf8"),
        ("你好".encode("gb18030"), "invalid_utf8"),
        (b'{"q": "cut', "not_json"),
        (b"not json", "not_json"),
        (b'{"q": 1' + b"0" * 5000 + b"}", "not_json"),
        (b'{"q": "x", "a": "y", "n": NaN}', "not_finite"),
        (b'{"q": "x", "a": "y", "n": -Infinity}', "not_finite"),
        (b'{"q": "x", "a": "y", "n": 1e999}', "not_finite"),
        (b'{"q": "x", "a": "y", "n": ' + b"[" * 40 + b"]" * 40 + b"}", "too_deep"),
        (b'{"q": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep"),
        (b"[1, 2]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"q": "x", "a": "y", "q": "z"}', "duplicate_key"),
        (b'{"q": "x", "a": "y", "m": [{"k": 1, "k": 1}]}', "duplicate_key"),
        (b'{"a": "y"}', "missing_field"),
        (b'{"q": null, "a": "y"}', "missing_field"),
        (b'{"q": 3, "a": "y"}', "wrong_type"),
        (b'{"q": "x", "a": ["y"]}', "wrong_type"),
        (b'{"q": "x", "a": true}', "wrong_type"),
        (b'{"q": "x\x00", "a": "y"}', "nul_character"),
        (b'{"q": "x\\u0000", "a": "y"}', "nul_character"),
        (b'{"q": "x", "a": "y", "m": {"k": "\\u0000"}}', "nul_character"),
        (b'{"q": "\\ud800", "a": "y"}', "invalid_unicode"),
        (b'{"q": "x", "a": "y", "\\udfff": 1}', "invalid_unicode"),
        (b'{"q": "' + b"x" * 1_100_000 + b'", "a": "y"}', "line_too_long"),
    ],
)
def test_a_bad_jsonl_line_is_noted_with_its_line_and_the_others_are_read(
    line: bytes, code: str, jsonl: Callable[..., Path]
) -> None:
    path = jsonl([GOOD, b"", line, GOOD])
    rows, source = _read(path)
    assert [row.line for row in rows] == [1, 4]
    assert _bad(source) == [(3, code)]
    assert source.bad.listed[0].byte == path.read_bytes().index(line)
    assert source.rows_read == 3


def test_an_escaped_backslash_before_u0000_is_no_nul(jsonl: Callable[..., Path]) -> None:
    rows, _ = _read(jsonl([{"q": "\\u0000", "a": "x", "k": "\\u0000"}]))
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ("text", "wrong_type"),
        ({"role": "user"}, "wrong_type"),
        (["text"], "wrong_type"),
        ([{"role": "user"}], "missing_field"),
        ([{"role": 1, "content": "x"}], "wrong_type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "wrong_type"),
        ([{"role": "user", "content": "x"}] * 5000, "too_many_messages"),
        (None, "missing_field"),
    ],
)
def test_messages_of_the_wrong_shape_are_bad_rows(
    messages: Any, code: str, jsonl: Callable[..., Path]
) -> None:
    _, source = _read(jsonl([{"messages": messages}]), InputMapping(messages="messages"))
    assert _bad(source) == [(1, code)]


def test_all_that_is_not_mapped_goes_to_meta(jsonl: Callable[..., Path]) -> None:
    turns = [{"role": "user", "content": "a", "at": 3}, {"content": "b"}]
    path = jsonl([{"messages": turns, "no": 7, "kind": "k", "sys": "be kind", "z": 1, "b": {"c": [1.5]}}])
    mapping = InputMapping(messages="messages", id="no", label="kind", system="sys")
    (row,), _ = _read(path, mapping)
    assert (row.id, row.label) == ("7", "k")
    assert row.messages == (("system", "be kind"), ("user", "a"), ("", "b"))
    assert json.loads(row.meta) == {"z": 1, "b": {"c": [1.5]}, "message_fields": [{"at": 3}, {}]}


def test_a_context_follows_its_prompt_where_there_is_one(jsonl: Callable[..., Path]) -> None:
    values: list[Any] = ["Some text.", "", " ", None]
    records = [{"q": "Summarise", "a": "x", "c": value} for value in values] + [{"q": "Why?", "a": "y"}]
    mapping = QA.model_copy(update={"context": "c"})
    rows, source = _read(jsonl([*records, {"q": "q", "a": "a", "c": 5}]), mapping)
    assert [row.texts()[0] for row in rows] == ["Summarise\n\nSome text.", *["Summarise"] * 3, "Why?"]
    assert _bad(source) == [(6, "wrong_type")]


def test_a_line_of_hundreds_of_megabytes_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as out:
        out.write((b'{"q": "a", "a": "' + b"b" * 10_000 + b'"}\n') * 40 + b'{"q": "')
        out.truncate(300_000_000)  # a hole, which reads as zeros and takes no disk
        out.seek(0, 2)
        out.write(b'"}\n{"q": "c", "a": "d"}\n')
    tracemalloc.start()
    try:
        source = Source.open(path, path.name, QA, "0" * 64)
        rows = sum(len(batch) for batch in source.batches(1000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (rows, _bad(source)) == (41, [(41, "line_too_long")])
    assert peak < 16_000_000


def test_csv_records_keep_the_line_they_begin_at(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes('\ufeffq,a\r\n"two\nlines, ""quoted""",x\r\n\r\nlast,y'.encode())
    rows, source = _read(path)
    assert [(row.line, row.texts()) for row in rows] == [
        (2, ('two\nlines, "quoted"', "x")),
        (5, ("last", "y")),
    ]
    assert source.rows_read == 2


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"one", "ragged_row"),
        (b"1,2,3", "ragged_row"),
        (b'"a" b,c', "stray_quote"),
        (b'"never closed,x', "unclosed_quote"),
        (b"\xff,x", "invalid_utf8"),
        (b"a\x00,x", "nul_character"),
        (b"x" * 1_100_000 + b",y", "line_too_long"),
    ],
)
def test_a_bad_csv_row_is_noted_and_reading_goes_on_with_the_next_line(
    line: bytes, code: str, tmp_path: Path
) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b"q,a\nb,c\n" + line + b"\nd,e\nf,g\n")
    rows, source = _read(path)
    assert [row.line for row in rows] == [2, 4, 5]
    assert _bad(source) == [(3, code)]


def test_a_quote_that_is_never_closed_costs_one_row_in_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b'q,a\n"open,x\n' + b"".join(b"%d,%s\n" % (i, b"x" * 1000) for i in range(2000)))
    rows, source = _read(path)
    assert len(rows) == 2000
    assert _bad(source) == [(2, "unclosed_quote")]


@pytest.mark.parametrize("header", [b"q,q\n", b"q,\n", b"\xff,a\n", b'"q,a\n'])
def test_a_header_that_cannot_be_used_is_refused(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(header + b"x,y\n")
    with pytest.raises(InvalidInput, match="header"):
        _read(path)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_delimiters_are_seen_in_the_header(mark: str, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text(f"q{mark}a\nx, y{mark}z\n", encoding="utf-8")
    (row,), _ = _read(path)
    assert row.texts() == ("x, y", "z")


@pytest.mark.parametrize(
    ("content", "columns", "line"),
    [
        (b'"q, the ""first"", long";a\nx;y\n', ['q, the "first", long', "a"], 2),
        (b'"q\n(in full)",a\r\nx,y\r\n', ["q (in full)", "a"], 3),
        (b'id,q,a\n1,"{\n{""k"": 1}\n{}\n",y\n', ["id", "q", "a"], 2),
        (b"\n\nq , a \nx,y\n", ["q", "a"], 4),
    ],
)
def test_headers_as_spreadsheets_write_them_are_understood(
    content: bytes, columns: list[str], line: int, tmp_path: Path
) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(content)
    assert peek(path, "d.csv").columns == tuple(columns)
    rows, source = _read(path, InputMapping(prompt=columns[-2], completion="a"))
    assert ([row.line for row in rows], source.bad.total) == ([line], 0)


def test_the_header_is_named_by_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b"\n\nq,q\nx,y\n")
    with pytest.raises(InvalidInput, match="line 3, the header: the name 'q' is there twice"):
        _read(path)


def test_a_column_that_is_not_there_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("question,answer\nx,y\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="did you mean `question`") as caught:
        _read(path, InputMapping(prompt="questoin", completion="answer"))
    assert caught.value.param == "input.prompt"


def test_gb18030_is_named_with_the_mend_and_read_when_declared(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    text = "问题,答案\n" + "怎么申请退款呢？,请在订单页面申请。\n" * 20
    path.write_bytes(text.encode("gb18030"))
    mapping = InputMapping(prompt="问题", completion="答案")
    with pytest.raises(InvalidInput, match="GB18030") as caught:
        _read(path, mapping)
    assert caught.value.param == "input.encoding"
    rows, source = _read(path, mapping.model_copy(update={"encoding": "gb18030"}))
    assert (len(rows), source.bad.total) == (20, 0)
    assert rows[0].texts() == ("怎么申请退款呢？", "请在订单页面申请。")


def test_parquet_rows_have_numbers_and_rich_values_go_to_meta(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    table = pa.table(
        {
            "messages": [turns, None, turns],
            "when": pa.array([0, 1, 2], pa.timestamp("s")),
            "score": [0.5, float("nan"), float("nan")],
            "raw": [b"\x00\xff", b"", b""],
        }
    )
    pq.write_table(table, path)
    rows, source = _read(path, InputMapping(messages="messages"), name="upload.bin")
    assert [row.line for row in rows] == [1, 3]
    assert _bad(source) == [(2, "missing_field")]
    assert json.loads(rows[1].meta) == {"when": "1970-01-01T00:00:02", "score": None, "raw": ""}


def test_a_parquet_string_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    broken = pa.array([b"ok", b"\xff\xfe", b"ok"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"t": broken}), path)
    rows, source = _read(path, InputMapping(text="t"))
    assert [row.line for row in rows] == [1, 3]
    assert _bad(source) == [(2, "invalid_utf8")]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, 2**61, 1], pa.timestamp("us")),
        pa.array([0, 2**62, 1], pa.duration("s")),
        pa.array([0, -(2**30), 1], pa.date32()),
    ],
    ids=lambda column: str(column.type),
)
def test_a_parquet_value_that_python_cannot_hold_is_one_bad_row(column: pa.Array, tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"t": ["x"] * 3, "when": column}), path)
    rows, source = _read(path, InputMapping(text="t"))
    assert [row.line for row in rows] == [1, 3]
    assert _bad(source) == [(2, "unreadable_value")]
    assert "`when`" in source.bad.listed[0].message


def test_a_parquet_row_that_unpacks_to_megabytes_is_a_bad_row_beside_good_ones(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"t": ["x", "y", "z"], "v": [[0], [0] * 3_000_000, [0]]}), path)
    assert path.stat().st_size < 50_000
    rows, source = _read(path, InputMapping(text="t"))
    assert [row.line for row in rows] == [1, 3]
    assert _bad(source) == [(2, "line_too_long")]


def test_a_parquet_file_whose_dictionary_stands_for_gigabytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_module, "MAX_DECOMPRESSED_BYTES", 20_000_000)
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"t": pa.array(["x" * 50_000] * 1000).dictionary_encode()}), path)
    assert path.stat().st_size < 100_000
    with pytest.raises(InvalidInput, match="unpacks to more, at most 20000000") as caught:
        _read(path, InputMapping(text="t"))
    assert caught.value.code == "decompressed_too_large"


@pytest.mark.parametrize(
    ("content", "name", "code", "says"),
    [
        (b"{bad\n{worse\n", "d.jsonl", "no_readable_rows", "line 1: column 2: "),
        (b"q,a\n1,2,3\n", "d.csv", "no_readable_rows", "line 2: 3 fields, the header has 2"),
        (b"q,a\n", "d.csv", "empty_file", "no rows"),
    ],
)
def test_a_file_without_one_row_to_infer_from_is_refused_with_the_reason(
    content: bytes, name: str, code: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=says) as caught:
        peek(path, name).mapping()
    assert caught.value.code == code


def test_a_file_that_opens_with_thousands_of_bad_rows_is_not_read_to_its_end_to_see_its_columns(
    jsonl: Callable[..., Path],
) -> None:
    seen = peek(jsonl([*[b"bad"] * 20_000, GOOD]), "d.jsonl")
    assert seen.samples == ()
    assert seen.bad[0].line == 1


@pytest.mark.parametrize("cut", [10, -10])
def test_a_damaged_parquet_file_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"t": ["x"] * 100}), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InvalidInput, match="damaged"):
        _read(path, InputMapping(text="t"))


def test_gzipped_files_are_read_as_what_is_in_them(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode() + b"\n{bad\n"))
    rows, source = _read(path)
    assert ([row.line for row in rows], _bad(source)) == ([1], [(2, "not_json")])


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "RATIO_FREE_BYTES", 2_000_000)
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode() + b"\n" + b" " * 20_000_000))
    with pytest.raises(InvalidInput, match="unpacks to more than") as caught:
        _read(path)
    assert caught.value.code == "decompressed_too_large"


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-6] + b"\x00" * 6])
def test_a_damaged_gzip_file_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl.gz"
    body = b"".join(
        json.dumps({"q": f"{i * 7919 % 1000003}", "a": "x"}).encode() + b"\n" for i in range(8_000)
    )
    path.write_bytes(damage(gzip.compress(body)))
    with pytest.raises(InvalidInput, match="gzip file is damaged"):
        _read(path)


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"", "d.jsonl", "is empty"),
        (b" \n\n", "d.csv", "is empty"),
        (b"PK\x03\x04....", "d.xlsx", "ZIP or Excel"),
        (b"%PDF-1.7", "d.pdf", "PDF"),
        ("q,a\n".encode("utf-16"), "d.csv", "UTF-16"),
        ("q,a\nx,y\n".encode("utf-16-le"), "d.csv", "UTF-16"),
        (b"[\n{}\n]", "d.json", "JSON array"),
        (b'{\n"q": 1\n}', "d.json", "over several lines"),
        (b"q,a\rx,y\r", "d.csv", "line ends"),
        (b"just words", "notes", "no known format"),
        (b"q,a\nx,y\n", "d.parquet", "no Parquet"),
        (b"\x00\x01\x02" * 50, "d.csv", "binary"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_it_is(
    content: bytes, name: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "upload"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=says):
        _read(path, name=name)


def test_content_decides_before_the_name(jsonl: Callable[..., Path]) -> None:
    assert peek(jsonl([GOOD], name="data.csv"), "data.csv").format == "jsonl"
    assert peek(jsonl([b"broken", GOOD]), "upload").format == "jsonl"
    assert peek(jsonl([b"q,a", b"x,y"], name="upload"), "upload").format == "csv"


def test_the_list_of_bad_rows_is_capped_and_the_count_is_exact(jsonl: Callable[..., Path]) -> None:
    _, source = _read(jsonl([GOOD, *[b"bad"] * 1000]))
    assert source.bad.counts == {"not_json": 1000}
    assert len(source.bad.listed) == 200
