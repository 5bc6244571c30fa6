"""Looks through whole versions and whole files for rows of a subject. Memory is bounded by a batch of rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from services.data_governance.erasure.subject import Match
from services.data_governance.ingest import Source, peek
from services.data_governance.lineage.row_index import parts
from shared.contracts.recipe import InputMapping

COLUMNS = ("_row_id", "id", "label", "text", "messages", "meta")
Look = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Hit:
    """A row of a file, by its id in versions and by its line."""

    row_id: str
    line: int


@dataclass(frozen=True, slots=True)
class Made:
    """What a version was made of: artifacts of its inputs, and the mapping where its manifest tells one."""

    inputs: frozenset[str]
    mapping: InputMapping | None


def made_from(folder: Path) -> Made:
    """What the manifest of a version says of its making."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    told = (manifest.get("recipe") or {}).get("input")
    mapping = InputMapping.model_validate(told) if isinstance(told, dict) else None
    return Made(frozenset(manifest["parents"]), mapping)


def in_version(folder: Path, match: Match, look: Look) -> list[str]:
    """Ids of the version's rows that match. Raises what `look` raises; it is called for each batch."""
    mapping = made_from(folder).mapping or InputMapping(text="text")
    found: list[str] = []
    for batch in _batches(folder, COLUMNS, look):
        found += [row["_row_id"] for row in batch.to_pylist() if match.holds(row, mapping)]
    return found


def made_of(folder: Path, row_ids: Collection[str], look: Look) -> list[str]:
    """Ids of the version's rows that were put together from any of these rows."""
    wanted = pa.array(sorted(row_ids), pa.string())
    found: list[str] = []
    for batch in _batches(folder, ("_row_id", "_parents"), look):
        if "_parents" not in batch.schema.names:
            return []
        lists = batch.column("_parents")
        hits = pc.is_in(pc.list_flatten(lists), value_set=wanted)
        rows = pc.list_parent_indices(lists).filter(hits).unique()
        found += batch.column("_row_id").take(rows).to_pylist()
    return found


def in_file(
    path: Path, name: str, sha256: str, match: Match, mappings: Iterable[InputMapping], look: Look
) -> list[Hit]:
    """Rows of a file that match, under the ids that they have (or would have) in a version made with a mapping.

    Without a mapping the file's own columns suggest one. Raises InvalidInput for a file that cannot be read, and
    what `look` raises.
    """
    hits: dict[Hit, None] = {}
    for mapping in list(mappings) or [peek(path, name, on_read=look).mapping()]:
        source = Source.open(path, name, mapping, sha256, look)
        for batch in source.batches():
            look()
            for row in batch:
                turns = [{"role": turn.role, "content": turn.content} for turn in row.messages or ()]
                told: dict[str, Any] = {"id": row.id, "label": row.label, "text": row.text, "meta": row.meta}
                if match.holds({**told, "messages": turns}, mapping):
                    hits[Hit(row.row_id, row.line)] = None
    return list(hits)


def _batches(folder: Path, columns: Collection[str], look: Look) -> Iterable[pa.RecordBatch]:
    for part in parts(folder):
        with pq.ParquetFile(part) as source:
            there = [name for name in columns if name in source.schema_arrow.names]
            for batch in source.iter_batches(columns=there):
                look()
                yield batch
