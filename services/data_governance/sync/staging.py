"""From records as a source gives them to rows of the bench: types, keys, and what does not fit. Knows no source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from services.data_governance.sync.bench import BAD_SCHEMA, ORIGIN, Bench
from services.data_governance.sync.values import ARROW, Misfit, canonical, converter, named, suggested
from shared.contracts.sources import ColumnType, Options
from shared.errors import InvalidInput

Record = Mapping[str, Any]
SAMPLE_ROWS = 10_000
MAX_COLUMNS = 2000
MAX_KEY = 1024


class SchemaDrift(InvalidInput):
    """The source's columns have changed, and its options say that a sync shall fail then."""

    code = "schema_drift"


@dataclass
class Drift:
    """What has changed about columns since the state before: name -> type, (was, now), or how many rows."""

    added: dict[str, str] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    misfits: Counter[str] = field(default_factory=Counter)
    removed: list[str] = field(default_factory=list)


class Staging:
    """Takes records; `first` says that there is no state before, so that every column is simply there."""

    def __init__(self, bench: Bench, key: tuple[str, ...], options: Options, *, first: bool) -> None:
        self._bench = bench
        self._key = key
        self._options = options
        self._first = first
        self._number = 0
        self._held: list[tuple[Record, str | None, int]] = []
        self._typed = not first
        self.drift = Drift()
        self.met: set[str] = set()

    @property
    def rows(self) -> int:
        """Records taken, good and bad."""
        return self._number

    def describe(self, columns: Mapping[str, ColumnType]) -> None:
        """The source knows its columns: compare them with those of the state before."""
        known = self._bench.columns
        for name, kind in columns.items():
            self._check_name(name)
            if name not in known:
                self._add(name, self._options.types.get(name, kind))
            elif known[name] != kind and name not in self._options.types:
                self._changed(name, known[name], kind)
        self.met |= columns.keys()
        self._typed = True

    def take(
        self, records: Sequence[Record], item: str | None = None, places: Sequence[int] | None = None
    ) -> None:
        """Records in order; `places` are where they stand in their item, for a key."""
        for index, record in enumerate(records):
            self._held.append((record, item, places[index] if places is not None else 0))
        if self._typed or len(self._held) >= SAMPLE_ROWS:
            self.flush()

    def refuse(self, key: str, item: str | None, code: str, reason: str) -> None:
        """A place of the source that could not be read at all."""
        self.flush()
        self._number += 1
        self._put_bad([(key, item, self._number, code, reason, None)])

    def flush(self) -> None:
        """Put what is held into the bench."""
        held, self._held = self._held, []
        if not held:
            return
        records = [record for record, _, _ in held]
        self._meet(records)
        self._typed = True
        numbers = range(self._number + 1, self._number + len(held) + 1)
        self._number += len(held)
        columns, faults = self._converted(records)
        keys = [self._key_of(index, held[index], columns, faults) for index in range(len(held))]
        good = [index for index in range(len(held)) if index not in faults]
        if good:
            picked = {p: [values[i] for i in good] for p, values in columns.items()}
            arrays = {
                p: pa.array(v, ARROW[self._bench.columns[n]])
                for (n, p), v in zip(self._places(), picked.values(), strict=True)
            }
            about = {"key": [keys[i] for i in good], "item": [held[i][1] for i in good]}
            strings = {name: pa.array(values, pa.string()) for name, values in about.items()}
            number = pa.array([numbers[i] for i in good], pa.int64())
            self._bench.insert("new", pa.table({**strings, "n": number, **arrays}))
        self._put_bad(
            [(keys[i], held[i][1], numbers[i], *fault, _shown(records[i])) for i, fault in faults.items()]
        )

    def _places(self) -> list[tuple[str, str]]:
        return list(zip(self._bench.columns, self._bench.places(), strict=True))

    def _meet(self, records: Sequence[Record]) -> None:
        """Columns that were not met before, with the types that their values suggest."""
        strange: dict[str, None] = {}
        for record in records:
            if not record.keys() <= self.met:
                strange.update(dict.fromkeys(name for name in record if name not in self.met))
        for name in strange:
            self._check_name(name)
            kind = self._options.types.get(name) or suggested(record.get(name) for record in records)
            if name in self._bench.columns:
                self.met.add(name)
            elif kind is not None:
                self._add(name, kind)
                self.met.add(name)

    def _check_name(self, name: str) -> None:
        if name == ORIGIN or not name or len(self._bench.columns) > MAX_COLUMNS:
            what = f"more than {MAX_COLUMNS} columns" if name and name != ORIGIN else f"a column {name!r}"
            raise InvalidInput(f"the source has {what}, which a state cannot have", code="bad_column")

    def _add(self, name: str, kind: ColumnType) -> None:
        if self._first:
            self._bench.add_column(name, kind)
            return
        self._fail_if(self._options.added == "fail", f"there is a new column `{name}` ({kind})")
        if self._options.added == "ignore":
            self.drift.ignored.add(name)
            return
        self.drift.added[name] = kind
        self._bench.add_column(name, kind)

    def _changed(self, name: str, was: ColumnType, now: ColumnType) -> None:
        self._fail_if(self._options.changed == "fail", f"column `{name}` was {was} and is {now}")
        self.drift.changed.setdefault(name, (was, now))

    def _fail_if(self, failing: bool, what: str) -> None:
        if failing:
            raise SchemaDrift(f"{what}; change the source's options to go on", param="options")

    def _converted(
        self, records: Sequence[Record]
    ) -> tuple[dict[str, list[Any]], dict[int, tuple[str, str]]]:
        """Values by column place, and (code, reason) of each record that has one that does not fit."""
        columns: dict[str, list[Any]] = {}
        faults: dict[int, tuple[str, str]] = {}
        for (name, place), kind in zip(self._places(), self._bench.columns.values(), strict=True):
            convert = converter(kind)
            values: list[Any] = []
            for index, record in enumerate(records):
                value = record.get(name)
                try:
                    values.append(None if value is None else convert(value))
                    if kind in ("text", "json") and value is not None:
                        _check_text(values[-1])
                except Misfit as exc:
                    values.append(None)
                    self._note_misfit(name, kind, value)
                    faults.setdefault(index, ("wrong_type", f"column `{name[:80]}`: {exc}"))
            columns[place] = values
        return columns, faults

    def _note_misfit(self, name: str, kind: ColumnType, value: Any) -> None:
        if not self._first:
            self._changed(name, kind, suggested([value]) or "text")
        self.drift.misfits[name] += 1

    def _key_of(
        self,
        index: int,
        held: tuple[Record, str | None, int],
        columns: Mapping[str, Sequence[Any]],
        faults: dict[int, tuple[str, str]],
    ) -> str:
        record, item, number = held
        values = [self._key_value(index, name, record, columns) for name in self._key]
        missing = [name for name, value in zip(self._key, values, strict=True) if value is None]
        if missing:
            faults[index] = ("null_key", f"column `{missing[0][:80]}` of the key is missing or null")
            values = [canonical(record)]
        own = key_text(values) if self._key else str(number)
        if len(own) > MAX_KEY and not missing:
            faults[index] = (
                "key_too_long",
                f"the key has {len(own)} characters, at most {MAX_KEY} are allowed",
            )
        own = own[:MAX_KEY]
        return own if item is None else f"{item}#{own}"

    def _key_value(self, index: int, name: str, record: Record, columns: Mapping[str, Sequence[Any]]) -> Any:
        held = columns[self._bench.place(name)][index] if name in self._bench.columns else None
        return record.get(name) if held is None else held

    def _put_bad(self, rows: Sequence[tuple[str, str | None, int, str, str, str | None]]) -> None:
        if not rows:
            return
        names = ("key", "item", "n", "code", "reason", "row")
        types = {**{f.name: f.type for f in BAD_SCHEMA}, "n": pa.int64()}
        columns = {
            name: pa.array(values, types[name])
            for name, values in zip(names, zip(*rows, strict=True), strict=True)
        }
        self._bench.insert("bad", pa.table(columns))


def key_text(values: Sequence[Any]) -> str:
    """One value as itself, several as a JSON list of texts."""
    texts = [converter("text")(value) for value in values]
    return texts[0] if len(texts) == 1 else canonical(texts)


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise Misfit("text with half of a surrogate pair") from exc


def _shown(record: Record) -> str:
    return canonical(record).encode("utf-8", "backslashreplace").decode()


__all__ = ["Drift", "Record", "SchemaDrift", "Staging", "key_text", "named"]
