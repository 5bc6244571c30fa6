"""A subject, and whether a row is of it. The value that it was asked for by is known by its hash alone. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.contracts.recipe import InputMapping

# What a mapping calls the columns that have a place of their own in a version.
PLACES = ("id", "label", "text")


@dataclass(frozen=True, slots=True)
class Match:
    """An exact match of a column of the source; `digest` is the SHA-256 of the value's text, in hex."""

    column: str
    digest: str

    def is_(self, value: object) -> bool:
        """Whether a value of the column is the one; numbers are compared by their digits."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() == self.digest

    def holds(self, row: Mapping[str, Any], mapping: InputMapping) -> bool:
        """Whether a row (`id`, `label`, `text`, `messages`, `meta` as JSON text) has it, in its place or in `meta`."""
        return any(value is not None and self.is_(value) for value in self._values(row, mapping))

    def _values(self, row: Mapping[str, Any], mapping: InputMapping) -> list[Any]:
        found = [row[place] for place in PLACES if getattr(mapping, place) == self.column]
        # Asked for by the name that the column has in the version, too.
        found += [row[place] for place in PLACES if place == self.column]
        turns: Sequence[Any] = row["messages"] or ()
        for role, column in (
            ("user", mapping.prompt),
            ("assistant", mapping.completion),
            ("system", mapping.system),
        ):
            if column == self.column:
                found += [turn["content"] for turn in turns if turn["role"] == role]
        # Most rows do not even name the column.
        if json.dumps(self.column, ensure_ascii=False) in row["meta"]:
            found.append(json.loads(row["meta"]).get(self.column))
        return found
