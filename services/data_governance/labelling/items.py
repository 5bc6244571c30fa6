"""From a row of a file or version to an item: what a labeller sees of it, and the right answer where it is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.contracts.label_values import check_value
from shared.contracts.labelling import ProjectSpec
from shared.errors import InvalidInput

MOST_CHARS = 200_000


@dataclass(frozen=True)
class SourceRow:
    """A row as it came: exactly one of `text` and `messages`; `extra` are its other columns by name."""

    row_id: str
    text: str | None
    messages: list[dict[str, str]] | None
    extra: dict[str, Any]


@dataclass(frozen=True)
class Item:
    """`data` is what is shown; `gold` the canonical right answer, or None."""

    id: str
    row_id: str
    data: dict[str, Any]
    extra: dict[str, Any]
    gold: dict[str, Any] | None


def make_item(project_id: str, spec: ProjectSpec, row: SourceRow) -> Item:
    """The same row is the same item of a project each time. Raises InvalidInput for one that does not fit the task."""
    data: dict[str, Any] = {"text": row.text} if row.messages is None else {"messages": row.messages}
    extra = dict(row.extra)
    if spec.task == "spans" and row.messages is not None:
        data = {"text": text_of(data)}
    if spec.task == "answer" and row.messages and row.messages[-1]["role"] == "assistant":
        data = {"messages": row.messages[:-1], "draft": row.messages[-1]["content"]}
    if spec.task == "preference":
        for key, column in (("a", spec.fields.a), ("b", spec.fields.b)):
            data[key] = _column(extra, column)
    if sum(len(str(value)) for value in data.values()) > MOST_CHARS:
        raise InvalidInput(f"the row has more than {MOST_CHARS} characters, which nobody labels at once")
    _check_storable([data, extra, row.row_id])
    gold = extra.pop(spec.fields.gold, None) if spec.fields.gold else None
    value = None if gold in (None, "", []) else check_value(spec, data, gold_value(spec, gold), "gold")
    return Item(item_id(project_id, row.row_id), row.row_id, data, extra, value)


def _check_storable(values: Any) -> None:
    """Refuse what Postgres cannot hold; of JSON from elsewhere nobody has checked that before."""
    try:
        written = json.dumps(values, ensure_ascii=False)
        written.encode()
    except (UnicodeEncodeError, ValueError) as exc:
        raise InvalidInput("the row holds half of a surrogate pair, or what is no JSON") from exc
    if "\\u0000" in written:
        raise InvalidInput("the row holds a NUL character")


def item_id(project_id: str, row_id: str) -> str:
    """`item-` and 24 hex digits of H(project, row)."""
    return "item-" + hashlib.sha256(f"{project_id}\n{row_id}".encode()).hexdigest()[:24]


def gold_value(spec: ProjectSpec, given: Any) -> Any:
    """A column's value as a label of the project: itself where it is one already."""
    if isinstance(given, str) and (spec.multiple or spec.task == "spans"):
        try:
            given = json.loads(given)
        except ValueError:
            given = [given]
    if isinstance(given, dict):
        return given
    if spec.task == "classification":
        return {"labels": given} if spec.multiple else {"label": str(given)}
    key = {"preference": "choice", "spans": "spans"}.get(spec.task, "text")
    return {key: given if key == "spans" else str(given)}


def text_of(data: Mapping[str, Any]) -> str:
    """All that an item says, as one text."""
    if "messages" in data:
        said = "\n".join(f"{turn['role']}: {turn['content']}" for turn in data["messages"])
    else:
        said = str(data.get("text") or "")
    return "\n".join([said, *(str(data[key]) for key in ("a", "b") if key in data)])


def _column(extra: dict[str, Any], name: str) -> str:
    value = extra.pop(name, None)
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(
            f"column {name!r} is missing or empty: a preference needs two answers to choose from"
        )
    return value
