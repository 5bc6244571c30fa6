"""Rows: governed Parquet and JSONL, and the line of whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.training.dataset import MAX_LINE_BYTES, Message, Row, conversations, read_rows
from shared.errors import InvalidInput

GOOD = {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好"}]}


def _jsonl(folder: Path, *lines: bytes | dict[str, Any]) -> list[Path]:
    path = folder / "rows.jsonl"
    path.write_bytes(
        b"".join(r + b"\n" if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in lines)
    )
    return [path]


def _parquet(folder: Path, rows: list[dict[str, Any]]) -> list[Path]:
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [
            ("_row_id", pa.string()),
            ("_source_line", pa.int64()),
            ("id", pa.string()),
            ("messages", pa.list_(message)),
            ("text", pa.string()),
            ("label", pa.string()),
            ("meta", pa.string()),
            ("split", pa.string()),
        ]
    )
    path = folder / "part-00000.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")
    return [path]


def test_governed_rows_are_picked_by_split(tmp_path: Path) -> None:
    paths = _parquet(
        tmp_path,
        [
            {"_source_line": 1, "messages": GOOD["messages"], "split": "train"},
            {"_source_line": 2, "text": "card lost", "label": "lost_card", "split": "validation"},
            {"_source_line": 3, "text": "只有文本", "split": "train"},
        ],
    )
    assert list(read_rows(paths, "train")) == [
        Row(1, messages=(Message("user", "你好"), Message("assistant", "您好"))),
        Row(3, text="只有文本"),
    ]
    (row,) = read_rows(paths, "validation")
    assert row.conversation() == (Message("user", "card lost"), Message("assistant", "lost_card"))


def test_a_chat_file_is_taken_whole_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    paths = _jsonl(tmp_path, b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), b"  ", {"text": "a b"})
    assert [row.line for row in read_rows(paths, "validation")] == [1, 3]


def test_a_weight_of_zero_is_not_trained_and_developer_is_system(tmp_path: Path) -> None:
    turns = [
        {"role": "developer", "content": "be kind"},
        {"role": "assistant", "content": "no", "weight": 0},
        {"role": "assistant", "content": "yes", "weight": 1},
    ]
    (row,) = read_rows(_jsonl(tmp_path, {"messages": turns}), "train")
    assert row.messages is not None
    assert [(m.role, m.trained) for m in row.messages] == [
        ("system", True),
        ("assistant", False),
        ("assistant", True),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "each line must be an object"),
        (b'{"text": NaN}', "NaN"),
        (b'{"text": "\xff"}', "not valid UTF-8"),
        (b'{"text": "\\ud800"}', "text"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"text": "' + b"x" * MAX_LINE_BYTES + b'"}', "longer than"),
        (b"{}", "neither"),
        (b'{"prompt": "a", "chosen": "b", "rejected": "c"}', "the row is a preference pair"),
        (
            b'{"input": {}, "preferred_output": [], "non_preferred_output": []}',
            "the row is a preference pair, for preference tuning",
        ),
        (b'{"text": "a", "label": 3}', "label"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": "a"}', "messages"),
        (b'{"messages": ["a"]}', r"messages\[0\]"),
        (b'{"messages": [{"role": "king", "content": "a"}]}', "role"),
        (b'{"messages": [{"role": ["user"], "content": "a"}]}', "role"),
        (b'{"messages": [{"role": "user", "content": 1}]}', "content"),
        (b'{"messages": [{"role": "user", "content": " "}]}', "content"),
        (b'{"messages": [{"role": "user", "content": "a", "tool_calls": []}]}', "tool_calls"),
        (b'{"messages": [{"role": "user", "content": "a", "weight": 1}]}', "weight"),
        (b'{"messages": [{"role": "assistant", "content": "a", "weight": [1]}]}', "weight"),
        (b'{"text": "a", "tools": [{}]}', "tools"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, line: bytes, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        list(read_rows(_jsonl(tmp_path, GOOD, line), "train", "training_file"))
    assert caught.value.message.startswith("line 2: ")
    assert (caught.value.code, caught.value.param) == ("invalid_training_file", "training_file")


def test_parquet_that_is_not_governed_or_broken_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(InvalidInput, match="has no column"):
        list(read_rows([path], "train"))
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InvalidInput, match="broken Parquet"):
        list(read_rows([path], "train"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read"):
        list(read_rows([tmp_path / "none.jsonl"], "train"))


def test_a_conversation_needs_an_answer(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="line 1: no assistant message"):
        list(conversations(read_rows(_jsonl(tmp_path, {"messages": GOOD["messages"][:1]}), "train")))
    with pytest.raises(InvalidInput, match="line 1: the row is plain text"):
        list(conversations(read_rows(_jsonl(tmp_path, {"text": "a"}), "train")))


def test_plain_text_of_a_conversation_has_role_words_and_no_signs() -> None:
    row = Row(1, messages=(Message("user", "你好"), Message("assistant", "您好")))
    assert row.plain_text() == "user\n你好\nassistant\n您好\n"
    assert Row(1, text="only this").plain_text() == "only this"
