"""Rows of a file or of a dataset version, as labelling takes them. Knows no project's items."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from services.data_governance.ingest import Source, peek
from services.data_governance.labelling.items import SourceRow
from services.data_governance.rows import Row
from shared.contracts.labelling import ProjectSpec
from shared.contracts.recipe import InputMapping
from shared.errors import InvalidInput

WANTED = ("_row_id", "id", "text", "messages", "label", "meta")
# Where a question or text stands, as files call it; in this order.
TEXTS = (
    "prompt",
    "question",
    "instruction",
    "text",
    "content",
    "sentence",
    "问题",
    "文本",
    "内容",
    "指令",
    "原文",
)


def of_file(
    path: Path, name: str, sha256: str, spec: ProjectSpec
) -> tuple[Source, Iterator[list[SourceRow]]]:
    """The reading, and its rows by batches. Raises InvalidInput for a file or columns that do not fit."""
    source = Source.open(path, name, _mapping(path, name, spec), sha256)
    return source, ([_of_row(row) for row in batch] for batch in source.batches(500))


def _mapping(path: Path, name: str, spec: ProjectSpec) -> InputMapping:
    fields = spec.fields
    if fields.messages is not None:
        return InputMapping(messages=fields.messages, id=fields.id)
    if fields.text is not None:
        return InputMapping(text=fields.text, id=fields.id)
    seen = peek(path, name)
    if spec.task != "preference":
        return seen.mapping()
    known = {column.casefold(): column for column in seen.columns}
    text = next((known[column] for column in TEXTS if column in known), None)
    if text is None:
        raise InvalidInput(
            f"no column of {', '.join(seen.columns[:20])} looks like a question; name it in fields.text",
            code="unknown_column",
            param="fields.text",
        )
    return InputMapping(text=text, id=fields.id)


def _of_row(row: Row) -> SourceRow:
    turns = [{"role": turn.role, "content": turn.content} for turn in row.messages or ()]
    extra = {**json.loads(row.meta), **_named(row.id, row.label)}
    return SourceRow(row.row_id, row.text, turns if row.messages is not None else None, extra)


def of_version(folder: Path, fields_text: str | None = None) -> Iterator[list[SourceRow]]:
    """Rows of a stored version by row groups; `fields_text` names another column than `text`, out of the rest."""
    for part in sorted((folder / "data").glob("*.parquet")):
        with pq.ParquetFile(part) as source:
            columns = [name for name in WANTED if name in source.schema_arrow.names]
            for group in range(source.num_row_groups):
                rows = source.read_row_group(group, columns=columns).to_pylist()
                for start in range(0, len(rows), 500):
                    yield [_of_stored(row, fields_text) for row in rows[start : start + 500]]


def _of_stored(row: Mapping[str, Any], fields_text: str | None) -> SourceRow:
    extra: dict[str, Any] = {**json.loads(row.get("meta") or "{}"), **_named(row["id"], row.get("label"))}
    if fields_text is not None and isinstance(extra.get(fields_text), str):
        return SourceRow(row["_row_id"], extra.pop(fields_text), None, extra)
    messages: Sequence[Mapping[str, str]] | None = row.get("messages")
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in messages or ()]
    return SourceRow(row["_row_id"], row.get("text"), turns if messages is not None else None, extra)


def _named(identity: str, label: str | None) -> dict[str, Any]:
    return {"id": identity, **({"label": label} if label is not None else {})}
