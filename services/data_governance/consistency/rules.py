"""Declared keys and references: how many rows break them, and which. SQL over the benches of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from services.data_governance.consistency.inputs import Input
from services.data_governance.sync.values import plain
from shared.contracts.consistency import KeyRule, Reference

SAMPLES = 20

TWICE = """
SELECT {columns}, count(*) AS rows, list(key ORDER BY n)[1:5] AS places FROM new WHERE {present}
GROUP BY {columns} HAVING count(*) > 1"""

DANGLING = """
SELECT {columns}, count(*) AS rows, list(key ORDER BY n)[1:5] AS places FROM new
WHERE {present} AND NOT EXISTS (SELECT 1 FROM known WHERE {joined}) GROUP BY {columns}"""


def check_key(rule: KeyRule, inputs: Mapping[str, Input], param: str) -> dict[str, Any]:
    """Counts of values that stand twice, of rows that have them, and of rows with a null; with samples."""
    held = inputs[rule.input]
    places = [held.place(column, f"{param}.columns") for column in rule.columns]
    present = " AND ".join(f"{p} IS NOT NULL" for p in places)
    query = TWICE.format(columns=", ".join(places), present=present)
    nulls = held.bench.count(f"SELECT count(*) FROM new WHERE NOT ({present})")
    told = _told(held, query, rule.columns, places)
    return {
        "input": rule.input,
        "columns": list(rule.columns),
        "nulls": nulls,
        **told,
        "ok": not (told["rows"] or nulls),
    }


def check_reference(rule: Reference, inputs: Mapping[str, Input], param: str) -> dict[str, Any]:
    """Counts of values that name nothing, and of rows that have them; with samples. Values meet as texts."""
    held, other = inputs[rule.input], inputs[rule.to]
    places = [held.place(column, f"{param}.columns") for column in rule.columns]
    targets = [other.place(column, f"{param}.to_columns") for column in rule.to_columns]
    named = [f"k{index}" for index in range(len(places))]
    held.bench.run(f"CREATE OR REPLACE TEMP TABLE known ({', '.join(f'{n} VARCHAR' for n in named)})")
    casts = ", ".join(f"{t}::VARCHAR AS {n}" for t, n in zip(targets, named, strict=True))
    for batch in other.bench.batches(f"SELECT DISTINCT {casts} FROM new"):
        held.bench.insert(
            "known", pa.table(batch.to_pydict(), schema=pa.schema([(n, pa.string()) for n in named]))
        )
    query = DANGLING.format(
        columns=", ".join(places),
        present=" AND ".join(f"{p} IS NOT NULL" for p in places),
        joined=" AND ".join(f"{n} = new.{p}::VARCHAR" for n, p in zip(named, places, strict=True)),
    )
    told = _told(held, query, rule.columns, places)
    shown = {
        "input": rule.input,
        "columns": list(rule.columns),
        "to": rule.to,
        "to_columns": list(rule.to_columns),
    }
    return {**shown, **told, "ok": not told["rows"]}


def _told(held: Input, query: str, columns: tuple[str, ...], places: list[str]) -> dict[str, Any]:
    values = held.bench.count(f"SELECT count(*) FROM ({query})")
    rows = held.bench.count(f"SELECT sum(rows) FROM ({query})")
    samples = []
    ordered = f"SELECT * FROM ({query}) ORDER BY rows DESC, {', '.join(places)} LIMIT {SAMPLES}"
    for batch in held.bench.batches(ordered):
        for row in batch.to_pylist():
            value = {column: plain(row[place]) for column, place in zip(columns, places, strict=True)}
            samples.append({"value": value, "rows": row["rows"], "places": row["places"]})
    return {"values": values, "rows": rows, "samples": samples}
