"""Files damaged at random places: each is read with its bad rows noted, or refused with one clear error."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data_governance.build import VersionResult
from shared.errors import HeliuError

ROWS = [{"question": f"怎么退款 {i}?", "answer": f"answer {i}", "label": "ab"[i % 2]} for i in range(30)]


def _jsonl() -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)


def _csv() -> bytes:
    lines = ["question,answer,label", *(f'"{r["question"]}",{r["answer"]},{r["label"]}' for r in ROWS)]
    return ("\r\n".join(lines) + "\r\n").encode()


def _parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out)
    return out.getvalue()


KINDS = {
    "d.jsonl": _jsonl(),
    "d.csv": _csv(),
    "d.parquet": _parquet(),
    "d.jsonl.gz": gzip.compress(_jsonl(), mtime=0),
}

ODD = [b"\x00", b'"', b"\n", b"\r", b"\xff", b"{", b"[" * 2000, b"\\ud800", b"NaN", b"\xc2\x85"]


def _damaged(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(data) + 1)
        what = draw.randrange(5)
        if what == 0:
            data[at : at + draw.randint(1, 40)] = b""
        elif what == 1:
            data[at:at] = draw.choice(ODD)
        elif what == 2:
            data[at : at + 1] = bytes([draw.randrange(256)])
        elif what == 3:
            data[at:at] = data[: draw.randint(0, 200)]
        elif draw.random() < 0.3:
            del data[at:]
    return bytes(data)


@pytest.mark.parametrize("name", KINDS)
def test_damage_never_ends_in_anything_but_a_result_or_a_clear_error(
    name: str, build: Callable[..., VersionResult], tmp_path: Path
) -> None:
    draw = random.Random(name)
    path = tmp_path / name
    for _ in range(60):
        path.write_bytes(_damaged(KINDS[name], draw))
        refusal, report = _attempt(build, path)
        if report is None:
            assert refusal is not None
            assert refusal.code != "internal_error"
            assert len(refusal.message) < 1000
        else:
            assert report["rows_in"] == report["rows_kept"] + sum(report["dropped"].values())


def _attempt(
    build: Callable[..., VersionResult], path: Path
) -> tuple[HeliuError | None, dict[str, Any] | None]:
    try:
        return None, build(path).report
    except HeliuError as exc:
        return exc, None
