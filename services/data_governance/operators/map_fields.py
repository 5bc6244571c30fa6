"""Renames, sets, fills, drops, puts together and casts the fields of rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.data_governance.casts import CannotCast, as_text, cast, is_blank
from services.data_governance.rows import Changed, Dropped, Outcome, Row
from shared.contracts.steps.map_fields import Cast, Concat, Default, Drop, MapFields, Put, Rename

_OWN = ("text", "label", "id")


class Refused(Exception):
    """The row cannot be changed so: the rule, and why."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.rule, self.reason = rule, reason


@dataclass(slots=True)
class _Fields:
    """A row taken apart: its own three fields and the other columns, to be changed one after the other."""

    own: dict[str, Any]
    meta: dict[str, Any]
    turns: bool

    def place(self, name: str) -> tuple[dict[str, Any], str]:
        if name in _OWN:
            return self.own, name
        return self.meta, name.removeprefix("meta.")

    def get(self, name: str) -> Any:
        held, key = self.place(name)
        return held.get(key)

    def has(self, name: str) -> bool:
        held, key = self.place(name)
        return held.get(key) is not None if held is self.own else key in held

    def put(self, name: str, value: Any) -> None:
        held, key = self.place(name)
        if held is self.own:
            value = self._own(name, value)
        held[key] = value

    def drop(self, name: str) -> None:
        held, key = self.place(name)
        if held is self.own:
            self.put(name, None)
        else:
            held.pop(key, None)

    def _own(self, name: str, value: Any) -> str | None:
        if name == "text" and self.turns:
            raise Refused(
                "text_of_turns", "`text` cannot be written: the row is a conversation, which has turns"
            )
        if value is None:
            if name == "id":
                raise Refused("no_id", "`id` would be null; give it a value, or leave it alone")
            return "" if name == "text" else None
        try:
            return as_text(value)
        except CannotCast as exc:
            raise Refused(f"no_text:{name}", f"`{name}` is text, and cannot be a list or an object") from exc


class Map:
    """Rules are `cast`, `rename` and the like with the field's name (`cast:amount`), of changes and of drops."""

    def __init__(self, step: MapFields) -> None:
        self._changes = step.params.changes

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        outcome = Outcome()
        for row in rows:
            fields = _Fields({"text": row.text, "label": row.label, "id": row.id}, json.loads(row.meta),
                             row.messages is not None)  # fmt: skip
            rules: dict[str, int] = {}
            try:
                for change in self._changes:
                    if rule := _DO[type(change)](fields, change):
                        rules[rule] = rules.get(rule, 0) + 1
            except Refused as refused:
                outcome.dropped.append(Dropped(row, refused.rule, refused.reason))
                continue
            after = _put_together(row, fields) if rules else row
            outcome.kept.append(after)
            if rules:
                outcome.changed.append(Changed(row, after, rules))
        return outcome


def _put_together(row: Row, fields: _Fields) -> Row:
    meta = json.dumps(fields.meta, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return replace(row, meta=meta, **fields.own)


def _rename(fields: _Fields, change: Rename) -> str | None:
    if not fields.has(change.field) or change.field == change.to:
        return None
    value = fields.get(change.field)
    fields.put(change.to, value)
    fields.drop(change.field)
    return f"rename:{change.field}"


def _put(fields: _Fields, change: Put) -> str | None:
    if fields.has(change.field) and _same(fields.get(change.field), change.value):
        return None
    fields.put(change.field, change.value)
    return f"set:{change.field}"


def _default(fields: _Fields, change: Default) -> str | None:
    if not is_blank(fields.get(change.field)):
        return None
    fields.put(change.field, change.value)
    return f"default:{change.field}"


def _drop(fields: _Fields, change: Drop) -> str | None:
    there = [name for name in change.fields if fields.has(name)]
    for name in there:
        fields.drop(name)
    return "drop_fields" if there else None


def _concat(fields: _Fields, change: Concat) -> str | None:
    parts = [fields.get(name) for name in change.fields]
    try:
        said = change.separator.join(as_text(part) for part in parts if not is_blank(part))
    except CannotCast as exc:
        raise Refused(f"concat:{change.to}", "one of `fields` is a list or an object, and no text") from exc
    if fields.get(change.to) == said:
        return None
    fields.put(change.to, said)
    return f"concat:{change.to}"


def _cast(fields: _Fields, change: Cast) -> str | None:
    value = fields.get(change.field)
    if value is None:
        return None
    made = None
    if not is_blank(value):
        try:
            made = cast(value, change.type)
        except CannotCast as exc:
            if change.on_error == "drop":
                why = f"`{change.field}` cannot be read as {change.type}"
                raise Refused(f"cast:{change.field}", why) from exc
    if _same(value, made):
        return None
    fields.put(change.field, made)
    return f"cast:{change.field}"


def _same(one: Any, other: Any) -> bool:
    """Equal and of one type: 1, 1.0 and true are three values of JSON."""
    return type(one) is type(other) and bool(one == other)


_DO: dict[type, Callable[[_Fields, Any], str | None]] = {
    Rename: _rename, Put: _put, Default: _default, Drop: _drop, Concat: _concat, Cast: _cast,
}  # fmt: skip
