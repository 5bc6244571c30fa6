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

COLUMNS = ("_row_id", "_source", "id", "label", "text", "messages", "meta")
Look = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Hit:
    """A row of a file, by its id in versions and by its line."""

    row_id: str
    line: int


@dataclass(frozen=True, slots=True)
class Made:
    """What a version was made of: each input's artifact, with the mapping that its rows were made by."""

    inputs: tuple[tuple[str, InputMapping], ...]

    def mappings(self, artifact: str) -> list[InputMapping]:
        """How these bytes were mapped; nothing where the version is not made of them."""
        return [mapping for input_, mapping in self.inputs if input_ == artifact]


def made_from(folder: Path) -> Made:
    """What the manifest of a version says of its making."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    recipe = manifest["recipe"]
    named = recipe.get("inputs") or {}
    # Versions from before there were several inputs tell of one.
    sources = manifest["sources"] if "sources" in manifest else [manifest["source"]]
    return Made(
        tuple(
            (
                f"sha256:{source['sha256']}",
                InputMapping.model_validate(named.get(source["name"], recipe["input"])),
            )
            for source in sources
        )
    )


def in_version(folder: Path, match: Match, look: Look) -> list[str]:
    """Ids of the version's rows that match. Raises what `look` raises; it is called for each batch."""
    inputs = made_from(folder).inputs
    found: list[str] = []
    for batch in _batches(folder, COLUMNS, look):
        for row in batch.to_pylist():
            _, mapping = inputs[row.get("_source", 0)]
            if match.holds(row, mapping):
                found.append(row["_row_id"])
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
