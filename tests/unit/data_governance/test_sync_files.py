"""Syncs of folders: what changed is read again, what cannot be read is told of, and nothing outside is seen."""

from __future__ import annotations

import json
import os
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import docx
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data_governance.sync.files import FolderSource
from services.data_governance.sync.reach import Reach
from services.data_governance.sync.run import Plan, State, sync_items
from services.data_governance.sync.watch import Watch
from shared.contracts.sources import Files, Options
from shared.errors import InvalidInput

QUIET = Watch(lambda: None, lambda _: None, lambda _: None)


class Folder:
    """A folder and the states that syncs of it made."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.path = base / "data"
        self.path.mkdir()
        self.state = State()
        self.known: dict[str, tuple[str, str]] = {}
        self._number = 0

    def write(self, name: str, content: str | bytes) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)

    def sync(self, *, deletes: bool = True, **given: Any) -> dict[str, Any]:
        self._number += 1
        scratch = self.base / f"sync-{self._number}"
        scratch.mkdir()
        source = FolderSource(Files(kind="files", path=str(self.path), **given), Reach(folders=(self.path,)))
        now = datetime.fromisoformat("2026-01-01") + timedelta(hours=self._number)
        plan = Plan("docs", Options(), False, deletes, now)
        done = sync_items(source, self.known, self.state, plan, scratch, QUIET)
        before = self.state
        quarantine = done.quarantine or (before.quarantine if done.quarantine_rows else None)
        self.state = State(done.columns, done.snapshot or before.snapshot, done.rows, quarantine, done.mark)
        self.known |= {name: (fingerprint, digest) for name, fingerprint, digest in done.items}
        for name in done.items_gone:
            del self.known[name]
        return done.report

    def rows(self) -> dict[str, dict[str, Any]]:
        assert self.state.snapshot is not None
        rows = pq.read_table(self.state.snapshot).to_pylist()
        return {
            row["_origin"]["key"]: {k: v for k, v in row.items() if k != "_origin" and v is not None}
            for row in rows
        }

    def bad(self) -> dict[str, str]:
        if self.state.quarantine is None:
            return {}
        return {row["key"]: row["code"] for row in pq.read_table(self.state.quarantine).to_pylist()}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def pdf(*pages: str) -> bytes:
    """A PDF with a line of text a page, written by hand."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for n, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET"
        resources = "/Resources << /Font << /F1 3 0 R >> >> /MediaBox [0 0 200 200]"
        objects.append(f"<< /Type /Page /Parent 2 0 R {resources} /Contents {5 + 2 * n} 0 R >>".encode())
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream".encode())
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    return b"%s%s%strailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        *(out, head, table),
        len(objects) + 1,
        len(out),
    )


def test_every_kind_of_file_gives_its_rows(folder: Folder) -> None:
    folder.write("a.csv", "name,n\n甲,1\n乙,2\n")
    folder.write("b.jsonl", '{"name": "丙", "n": "3"}\n')
    folder.write("c.txt", "一段文字")
    folder.write("d.pdf", pdf("first page", "second page"))
    pq.write_table(pa.table({"name": ["丁"], "n": ["4"]}), folder.path / "e.parquet")
    document = docx.Document()
    document.add_paragraph("第一段")
    document.save(str(folder.path / "f.docx"))
    book = openpyxl.Workbook()
    book.active.append(["name", "n"])
    book.active.append(["戊", "5"])
    book.save(folder.path / "g.xlsx")
    report = folder.sync()
    assert folder.bad() == {}
    assert report["items"] == {"seen": 7, "read": 7, "gone": 0}
    rows = folder.rows()
    assert (rows["a.csv#3"], rows["b.jsonl#1"]) == ({"name": "乙", "n": "2"}, {"name": "丙", "n": "3"})
    assert rows["c.txt#1"] == {"title": "c", "text": "一段文字"}
    assert (rows["d.pdf#2"]["text"], rows["d.pdf#2"]["page"]) == ("second page", 2)
    assert (rows["e.parquet#1"]["name"], rows["g.xlsx#1"]["name"]) == ("丁", "戊")
    assert rows["f.docx#1"]["text"] == "第一段"


def test_only_what_changed_is_read_again_and_its_old_rows_go(folder: Folder) -> None:
    folder.write("a.jsonl", '{"id": 1}\n{"id": 2}\n{"id": 3}\n')
    folder.write("b.jsonl", '{"id": 9}\n')
    folder.sync(key=("id",))
    folder.write("a.jsonl", '{"id": 1}\n{"id": 4}\n')
    report = folder.sync(key=("id",))
    assert report["items"]["read"] == 1
    assert [report["rows"][n] for n in ("inserted", "unchanged", "deleted")] == [1, 1, 2]
    assert set(folder.rows()) == {"a.jsonl#1", "a.jsonl#4", "b.jsonl#9"}


def test_a_file_that_was_only_touched_is_not_read_into_a_new_state(folder: Folder) -> None:
    folder.write("a.jsonl", '{"id": 1}\n')
    folder.sync()
    os.utime(folder.path / "a.jsonl", ns=(1, 1))
    report = folder.sync()
    assert (report["items"]["read"], report["changed"]) == (0, False)


def test_the_rows_of_a_file_that_is_gone_go_when_deletes_are_looked_for(folder: Folder) -> None:
    folder.write("a.jsonl", '{"id": 1}\n')
    folder.write("b.jsonl", '{"id": 2}\n')
    folder.sync()
    (folder.path / "b.jsonl").unlink()
    assert folder.sync(deletes=False)["rows"]["deleted"] == 0
    assert folder.sync()["rows"]["deleted"] == 1
    assert set(folder.rows()) == {"a.jsonl#1"}


def test_what_cannot_be_read_is_told_with_its_place_and_the_rest_is_taken(folder: Folder) -> None:
    folder.write("a.jsonl", '{"id": 1}\n{bad\n{"id": 3}\n')
    folder.write("b.pdf", b"%PDF-1.4 broken")
    folder.write("c.bin", bytes(range(256)) * 8)
    folder.write("d.xlsx", b"PK\x03\x04 nonsense")
    folder.write("e.txt", "中文内容在这里哦，大家看看吧".encode("gb18030"))
    report = folder.sync()
    assert len(folder.rows()) == 2
    assert folder.bad() == {
        "a.jsonl#2": "not_json",
        "b.pdf#": "damaged_file",
        "c.bin#": "unsupported_format",
        "d.xlsx#": "damaged_file",
        "e.txt#": "wrong_encoding",
    }
    told = report["rows"]
    assert told["read"] == sum(
        told[n] for n in ("inserted", "updated", "unchanged", "quarantined", "repeated")
    )
    folder.write("a.jsonl", '{"id": 1}\n{"id": 2}\n{"id": 3}\n')
    (folder.path / "b.pdf").unlink()
    folder.sync()
    assert not {"a.jsonl#2", "b.pdf#"} & set(folder.bad())


def test_an_archive_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(folder: Folder) -> None:
    with zipfile.ZipFile(folder.path / "bomb.docx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"<w/>")
    raw = (folder.path / "bomb.docx").read_bytes()
    # The directory of the archive says how much there is: 0x7f000000 bytes of it, in the place of four.
    at = raw.index(b"PK\x01\x02") + 24
    (folder.path / "bomb.docx").write_bytes(raw[:at] + b"\x00\x00\x00\x7f" + raw[at + 4 :])
    folder.sync()
    assert folder.bad() == {"bomb.docx#": "decompressed_too_large"}


def test_links_that_lead_out_hidden_files_and_pipes_are_not_seen(folder: Folder) -> None:
    secret = folder.base / "secret.jsonl"
    secret.write_text('{"id": 1}\n')
    (folder.path / "link.jsonl").symlink_to(secret)
    (folder.path / "up").symlink_to(folder.base)
    os.mkfifo(folder.path / "pipe.jsonl")
    folder.write(".hidden.jsonl", '{"id": 2}\n')
    folder.write("own.jsonl", json.dumps({"id": 3}) + "\n")
    assert folder.sync()["items"]["seen"] == 1


@pytest.mark.parametrize("pattern", ["../*", "/etc/*", "a/../../*"])
def test_a_pattern_that_leads_out_is_refused(folder: Folder, pattern: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        folder.sync(pattern=pattern)
    assert caught.value.param == "connection.pattern"
