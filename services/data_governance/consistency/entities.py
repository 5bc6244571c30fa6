"""Records of several inputs that are of one thing: matched by normal forms, settled by declared rules.

Records that share a normal form are one, and so are those that a chain of such records joins. A form that more than
MOST_SHARING records have (a switchboard's number) joins nobody, and is told of.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from services.data_governance.consistency.inputs import Input
from services.data_governance.consistency.normal import normal
from services.data_governance.sync.bench import ORIGIN, Bench, stored
from services.data_governance.sync.values import ARROW, DUCK, Misfit, converter, plain
from shared.contracts.consistency import Entities, MatchKey
from shared.contracts.sources import ColumnType

MOST_SHARING = 50
SAMPLES = 20
WRITE_ROWS = 4096
MEMBERS = pa.list_(pa.struct([("source", pa.string()), ("key", pa.string())]))
CONFLICTS = pa.schema(
    [
        ("entity", pa.string()),
        ("column", pa.string()),
        ("rule", pa.string()),
        ("chosen", pa.string()),
        ("from", pa.string()),
        ("values", pa.string()),
    ]
)


@dataclass
class Told:
    """What matching found: things, records, contradictions by column, forms that too many share."""

    records: int = 0
    entities: int = 0
    merged: int = 0
    conflicts: Counter[str] = field(default_factory=Counter)
    shared_too_often: int = 0
    unmatchable: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)


def settle(
    spec: Entities,
    inputs: Mapping[str, Input],
    folder: Path,
    merged: Path,
    conflicts: Path,
    check: Callable[[], None],
) -> Told:
    """Write one row a thing to `merged`, and every contradiction with its choice to `conflicts`."""
    folder.mkdir()
    types = {name: _type(name, columns, inputs) for name, columns in spec.values.items()}
    told = Told()
    with Bench(folder) as bench:
        _gather(bench, spec, inputs, types, told, check)
        _number(bench, told, check)
        out = pa.schema([*((n, stored(kind)) for n, kind in types.items()), (ORIGIN, MEMBERS)])
        with (
            pq.ParquetWriter(merged, out, compression="zstd") as rows,
            pq.ParquetWriter(conflicts, CONFLICTS, compression="zstd") as noted,
        ):
            for things in _chunks(_things(bench, check)):
                settled = [_settled(spec, types, thing, told) for thing in things]
                rows.write_table(pa.Table.from_pylist([row for row, _ in settled], schema=out))
                found = [note for _, notes in settled for note in notes]
                if found:
                    noted.write_table(pa.Table.from_pylist(found, schema=CONFLICTS))
    return told


def _type(name: str, columns: Mapping[str, str], inputs: Mapping[str, Input]) -> ColumnType:
    """The type that all inputs have it in, or else text."""
    kinds = set()
    for source, column in columns.items():
        inputs[source].place(column, f"checks.entities.values.{name}.{source}")
        kinds.add(inputs[source].bench.columns[column])
    return kinds.pop() if len(kinds) == 1 else "text"


def _gather(
    bench: Bench,
    spec: Entities,
    inputs: Mapping[str, Input],
    types: Mapping[str, ColumnType],
    told: Told,
    check: Callable[[], None],
) -> None:
    """Every record with its values, and every normal form that it has."""
    columns = ", ".join(f"v{i} {DUCK[kind]}" for i, kind in enumerate(types.values()))
    bench.run(f"CREATE TABLE record (row BIGINT, source VARCHAR, key VARCHAR, age VARCHAR, {columns})")
    bench.run("CREATE TABLE form (row BIGINT, kind VARCHAR, form VARCHAR)")
    for source, held in inputs.items():
        if not any(source in found.columns for found in spec.match):
            continue
        wanted = [
            (match, held.place(match.columns[source], f"checks.entities.match[{i}].columns.{source}"))
            for i, match in enumerate(spec.match)
            if source in match.columns
        ]
        values = {
            n: held.place(c[source], f"checks.entities.values.{n}.{source}")
            for n, c in spec.values.items()
            if source in c
        }
        age = (
            held.place(spec.newest[source], f"checks.entities.newest.{source}")
            if source in spec.newest
            else None
        )
        places = [*(place for _, place in wanted), *values.values(), *([age] if age else [])]
        for rows in held.values(places):
            check()
            _put(bench, source, rows, wanted, values, age, types, told)


def _put(
    bench: Bench,
    source: str,
    rows: Sequence[Mapping[str, Any]],
    wanted: Sequence[tuple[MatchKey, str]],
    values: Mapping[str, str],
    age: str | None,
    types: Mapping[str, ColumnType],
    told: Told,
) -> None:
    first = told.records
    told.records += len(rows)
    columns: dict[str, pa.Array] = {
        "row": pa.array(range(first, first + len(rows)), pa.int64()),
        "source": pa.array([source] * len(rows), pa.string()),
        "key": pa.array([row["key"] for row in rows], pa.string()),
        "age": pa.array([None if age is None else _age(row[age]) for row in rows], pa.string()),
    }
    for index, (name, kind) in enumerate(types.items()):
        found = [_as(kind, row[values[name]]) if name in values else None for row in rows]
        columns[f"v{index}"] = pa.array(found, ARROW[kind])
    bench.insert("record", pa.table(columns))
    forms = [
        (first + offset, match.kind, form)
        for offset, row in enumerate(rows)
        for match, place in wanted
        if row[place] is not None and (form := normal(match.kind, _as("text", row[place]), match.region))
    ]
    told.unmatchable += len(rows) - len({row for row, _, _ in forms})
    if forms:
        numbers, kinds, texts = zip(*forms, strict=True)
        bench.insert(
            "form",
            pa.table(
                {"row": pa.array(numbers, pa.int64()), "kind": pa.array(kinds), "form": pa.array(texts)}
            ),
        )


def _as(kind: ColumnType, value: Any) -> Any:
    try:
        return None if value is None else converter(kind)(value)
    except Misfit:
        return None


def _age(value: Any) -> str | None:
    """Times and numbers as texts that have their order."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value + 10**18:+040.9f}"
    return str(plain(value))


def _number(bench: Bench, told: Told, check: Callable[[], None]) -> None:
    """The table `entity`: for each record the first one of its thing."""
    parent = np.arange(told.records, dtype=np.int64)

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    shared = "SELECT kind, form FROM form GROUP BY kind, form HAVING count(DISTINCT row) {}"
    told.shared_too_often = bench.count(f"SELECT count(*) FROM ({shared.format(f'> {MOST_SHARING}')})")
    joining = shared.format(f"BETWEEN 2 AND {MOST_SHARING}")
    before: tuple[str, str, int] | None = None
    for batch in bench.batches(
        f"SELECT kind, form, row FROM form JOIN ({joining}) USING (kind, form) ORDER BY ALL"
    ):
        check()
        for kind, form, row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if before is not None and before[:2] == (kind, form):
                low, high = sorted((root(before[2]), root(row)))
                parent[high] = low
            before = (kind, form, row)
    roots = np.fromiter((root(row) for row in range(told.records)), np.int64, told.records)
    bench.run("CREATE TABLE entity (row BIGINT, entity BIGINT)")
    bench.insert("entity", pa.table({"row": pa.array(range(told.records), pa.int64()), "entity": roots}))


def _things(bench: Bench, check: Callable[[], None]) -> Iterator[list[dict[str, Any]]]:
    """The records of one thing after another."""

    def records() -> Iterator[dict[str, Any]]:
        for batch in bench.batches("SELECT * FROM entity JOIN record USING (row) ORDER BY entity, row"):
            check()
            yield from batch.to_pylist()

    for _, group in groupby(records(), key=lambda record: record["entity"]):
        yield list(group)


def _chunks(things: Iterator[list[dict[str, Any]]]) -> Iterator[list[list[dict[str, Any]]]]:
    held: list[list[dict[str, Any]]] = []
    for thing in things:
        held.append(thing)
        if len(held) >= WRITE_ROWS:
            yield held
            held = []
    if held:
        yield held


def _settled(
    spec: Entities, types: Mapping[str, ColumnType], thing: list[dict[str, Any]], told: Told
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of a thing, and what its records contradict each other in."""
    told.entities += 1
    told.merged += len(thing) > 1
    members = [{"source": record["source"], "key": record["key"]} for record in thing]
    row: dict[str, Any] = {ORIGIN: members}
    notes = []
    for index, name in enumerate(types):
        said = [(record, record[f"v{index}"]) for record in thing if record[f"v{index}"] is not None]
        different = {json.dumps(plain(value), ensure_ascii=False) for _, value in said}
        rule = spec.rules.get(name, spec.rule)
        record, row[name] = _chosen(rule, spec, said) if said else (None, None)
        if len(different) > 1 and record is not None:
            told.conflicts[name] += 1
            every = [{"source": r["source"], "key": r["key"], "value": plain(value)} for r, value in said]
            note = {
                "entity": f"{thing[0]['source']}#{thing[0]['key']}",
                "column": name,
                "rule": rule,
                "chosen": json.dumps(plain(row[name]), ensure_ascii=False),
                "from": f"{record['source']}#{record['key']}",
                "values": json.dumps(every, ensure_ascii=False),
            }
            notes.append(note)
            if len(told.samples) < SAMPLES:
                told.samples.append({**note, "values": every, "chosen": plain(row[name])})
    return row, notes


def _chosen(
    rule: str, spec: Entities, said: Sequence[tuple[dict[str, Any], Any]]
) -> tuple[dict[str, Any], Any]:
    """The record that is followed, and its value. What a rule leaves open goes by priority, then by order."""
    rank = {source: place for place, source in enumerate(spec.priority)}

    def trust(one: tuple[dict[str, Any], Any]) -> tuple[int, int]:
        return rank.get(one[0]["source"], len(rank)), one[0]["row"]

    if rule == "newest":
        newest = max((record["age"] for record, _ in said if record["age"] is not None), default=None)
        return min((one for one in said if one[0]["age"] == newest), key=trust)
    if rule == "vote":
        votes = Counter(json.dumps(plain(value)) for _, value in said)
        most = max(votes.values())
        return min((one for one in said if votes[json.dumps(plain(one[1]))] == most), key=trust)
    return min(said, key=trust)
