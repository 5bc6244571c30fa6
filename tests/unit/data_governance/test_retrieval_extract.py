"""Texts of files by their kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.data_governance.retrieval import extract as module
from services.data_governance.retrieval.extract import extract
from shared.errors import InvalidInput


def read(folder: Path, name: str, content: bytes) -> str:
    path = folder / "object"
    path.write_bytes(content)
    return extract(path, name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_text_is_read_in_the_encodings_of_chinese_systems(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path, "a.txt", "退款三天到账，感谢。".encode(encoding)) == "退款三天到账，感谢。"


def test_rows_of_a_table_say_which_column_is_what(tmp_path: Path) -> None:
    text = read(tmp_path, "a.csv", '门店,时间\n北京,"9-21,\n含假日"\n'.encode())
    assert text == "门店: 北京\n时间: 9-21,\n含假日\n"


def test_rows_of_messages_are_what_was_said(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "几点开门"}, {"role": "assistant", "content": "九点"}]
    assert read(tmp_path, "a.jsonl", json.dumps({"id": "1", "messages": said}).encode()) == "几点开门\n九点\n"


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.png", b"\x89PNG", "unsupported_file"),
        ("a.txt", b"\x00\x01\x02", "invalid_file"),
        ("a.txt", b"\xff\xff\xff", "invalid_file"),
        ("a.jsonl", b'{"a": 1}\n', "invalid_file"),
        ("a.json", b"{", "invalid_file"),
        ("a.json", b"[" * 100_000, "invalid_file"),
        ("a.pdf", b"%PDF-1.4\n%%EOF", "invalid_file"),
        ("a.docx", b"PK\x03\x04", "invalid_file"),
        ("a.csv", b'a,"' + b"x" * 200_000, "invalid_file"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_code(
    tmp_path: Path, name: str, content: bytes, code: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, name, content)
    assert refused.value.code == code


def test_a_text_that_is_too_long_is_refused_before_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CHARS", 10)
    with pytest.raises(InvalidInput, match="more than 40 bytes"):
        read(tmp_path, "a.txt", b"x" * 41)
    with pytest.raises(InvalidInput, match="more than 10 characters"):
        read(tmp_path, "a.txt", b"x" * 20)
