"""Drops rows that break a declared check; pandera looks at all conditions of a batch at once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from services.data_governance.casts import CannotCast, cast
from services.data_governance.rows import Dropped, Outcome, Row
from shared.contracts.steps.check_rows import Check, CheckRows

# Values of one condition: made of a column's values, and what pandera asks of them.
Made = Callable[[Sequence[Any]], pl.Series]


class Checked:
    """Rules `check:<field>:<condition>`, the first that a row breaks; the reason names all of them."""

    def __init__(self, step: CheckRows) -> None:
        self._fields = [check.field for check in step.params.checks]
        self._columns: list[tuple[str, Made]] = []
        self._names: list[str] = []
        asked: dict[str, pa.Column] = {}
        for check in step.params.checks:
            for condition, make, ask in _conditions(check):
                name = f"{check.field}:{condition}"
                self._columns.append((check.field, make))
                self._names.append(name)
                asked[name] = pa.Column(checks=ask, nullable=True)
        self._schema = pa.DataFrameSchema(asked)

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        outcome = Outcome()
        broken = self._broken(rows) if rows else {}
        for at, row in enumerate(rows):
            if at not in broken:
                outcome.kept.append(row)
                continue
            names = sorted(broken[at], key=self._names.index)
            outcome.dropped.append(Dropped(row, f"check:{names[0]}", "it breaks " + ", ".join(names)))
        return outcome

    def _broken(self, rows: Sequence[Row]) -> dict[int, set[str]]:
        """The conditions that each row breaks, by its place."""
        values = self._values(rows)
        frame = pl.DataFrame(
            [
                make(values[field]).alias(name)
                for name, (field, make) in zip(self._names, self._columns, strict=True)
            ]
        )
        broken: dict[int, set[str]] = defaultdict(set)
        try:
            self._schema.validate(frame, lazy=True)
        except SchemaErrors as exc:
            for name, at in exc.failure_cases.select("column", "index").iter_rows():
                broken[int(at)].add(str(name))
        return broken

    def _values(self, rows: Sequence[Row]) -> dict[str, list[Any]]:
        own: dict[str, Callable[[Row], Any]] = {
            "text": lambda row: "\n".join(row.texts()), "label": lambda row: row.label, "id": lambda row: row.id,
        }  # fmt: skip
        others = [field for field in self._fields if field not in own]
        metas = [json.loads(row.meta) for row in rows] if others else []
        found = {field: [meta.get(field.removeprefix("meta.")) for meta in metas] for field in others}
        return found | {field: [own[field](row) for row in rows] for field in self._fields if field in own}


def _conditions(check: Check) -> list[tuple[str, Made, pa.Check]]:
    """What a check asks for: by name, with the column that pandera looks at, null where there is nothing to ask."""
    true = pa.Check.eq(True)
    made: list[tuple[str, Made, pa.Check]] = []
    if check.required:
        made.append(("required", _told(lambda value: value is not None, null=False), true))
    numeric = check.min is not None or check.max is not None
    textual = check.pattern is not None or check.min_length is not None or check.max_length is not None
    kind = check.type or ("number" if numeric else "str" if textual else None)
    if kind is not None:
        made.append(("type", _told(_TYPES[kind]), true))
    if check.min is not None:
        made.append(("min", _numbers, pa.Check.ge(float(check.min))))
    if check.max is not None:
        made.append(("max", _numbers, pa.Check.le(float(check.max))))
    if check.allowed is not None:
        made.append(("allowed", _keys, pa.Check.isin([_key(value) for value in check.allowed])))
    if check.pattern is not None:
        made.append(("pattern", _texts, _matches(check.pattern)))
    if check.min_length is not None:
        made.append(("min_length", _lengths, pa.Check.ge(check.min_length)))
    if check.max_length is not None:
        made.append(("max_length", _lengths, pa.Check.le(check.max_length)))
    return made


def _matches(pattern: str) -> pa.Check:
    """By Polars' engine, which is the one that the recipe was checked with; pandera's own check reads it with `re`."""
    return pa.Check(lambda data: data.lazyframe.select(pl.col(data.key).str.contains(f"^(?:{pattern})$")))


def _told(right: Callable[[Any], bool], *, null: bool = True) -> Made:
    def make(values: Sequence[Any]) -> pl.Series:
        return pl.Series([null if value is None else right(value) for value in values], dtype=pl.Boolean)

    return make


def _numbers(values: Sequence[Any]) -> pl.Series:
    """As doubles, so above 2**53 neighbours are one; null for what is no number, which `type` refuses."""
    return pl.Series([_double(value) if _is_number(value) else None for value in values], dtype=pl.Float64)


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _texts(values: Sequence[Any]) -> pl.Series:
    return pl.Series([value if isinstance(value, str) else None for value in values], dtype=pl.String)


def _lengths(values: Sequence[Any]) -> pl.Series:
    return pl.Series([len(value) if isinstance(value, str) else None for value in values], dtype=pl.Int64)


def _keys(values: Sequence[Any]) -> pl.Series:
    return pl.Series([None if value is None else _key(value) for value in values], dtype=pl.String)


def _key(value: Any) -> str:
    """Equal for equal JSON values alone: "1", 1 and true are three, 1 and 1.0 are one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_written(value: Any, kind: str) -> bool:
    """A date or time as ISO 8601 has it, which is how casts write them."""
    try:
        return isinstance(value, str) and bool(cast(value, kind) == value)
    except CannotCast:
        return False


_TYPES: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, float),
    "number": _is_number,
    "bool": lambda value: isinstance(value, bool),
    "date": lambda value: _is_written(value, "date"),
    "datetime": lambda value: _is_written(value, "datetime"),
}
