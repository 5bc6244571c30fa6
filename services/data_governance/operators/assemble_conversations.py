"""Puts rows of single messages together to conversations, wherever in the source they stand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from services.data_governance.buckets import buckets, groups
from services.data_governance.rows import Dropped, KeyColumns, Message, Row, hash128
from services.data_governance.times import seconds_of
from shared.contracts.steps.assemble_conversations import AssembleConversations

VERDICT = np.dtype([("drop", "?"), ("first", "<u4"), ("size", "<u4"), ("place", "<u4")])
_NONE = bytes(16)


class Assembled:
    """The first row of a conversation becomes all of it; the others go by the rule `joined`, or `too_many_messages`."""

    def __init__(self, step: AssembleConversations) -> None:
        self._params = step.params

    def keys(self, rows: Sequence[Row]) -> Mapping[str, np.ndarray[Any, Any]]:
        fields = [json.loads(row.meta) for row in rows]
        named = [found.get(self._params.key) for found in fields]
        hashes = b"".join([_NONE if one is None else hash128(json.dumps([one])) for one in named])
        order = self._params.order
        return {
            "named": np.array([one is not None for one in named], bool),
            "group": np.frombuffer(hashes, dtype="<u8").reshape(-1, 2),
            "order": np.array([math.nan if order is None else seconds_of(one.get(order)) for one in fields]),
        }

    def settle(self, keys: KeyColumns, alive: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        verdicts = np.zeros(keys.rows, VERDICT)
        verdicts["first"], verdicts["size"] = np.arange(keys.rows), 1
        moments = keys.column("order")
        for ordinals, found in buckets(keys, "group", alive & keys.column("named")):
            order, starts = groups(found)
            for members in np.split(ordinals[order], starts[1:]):
                # NaN sorts last, and what is equal keeps the order of the source.
                placed = members[np.argsort(moments[members], kind="stable")]
                verdicts["first"][members], verdicts["size"][members] = members[0], len(members)
                verdicts["place"][placed] = np.arange(len(placed))
                verdicts["drop"][members[1:]] = True
                if len(members) > self._params.max_messages:
                    verdicts["drop"][members[0]] = True
        return verdicts

    def dropped(self, row: Row, verdict: np.void) -> Dropped:
        size = int(verdict["size"])
        if size > self._params.max_messages:
            limit = self._params.max_messages
            return Dropped(
                row, "too_many_messages", f"its conversation has {size}, at most {limit} are allowed"
            )
        return Dropped(row, "joined", f"it is one of {size} messages that became one row")

    def gathered(self, first: Row, members: Sequence[tuple[Row, np.void]]) -> Row:
        """The conversation of these rows; `first` is one of them."""
        if len(members) == 1 and self._params.key not in json.loads(first.meta):
            return first
        ranked = [row for row, verdict in sorted(members, key=lambda one: int(one[1]["place"]))]
        turns: list[Message] = []
        for row in ranked:
            role = str(json.loads(row.meta).get(self._params.role) or "")
            role = self._params.roles.get(role, role)
            for text in row.texts():
                if self._params.join and turns and turns[-1].role == role:
                    turns[-1] = Message(role, f"{turns[-1].content}\n{text}")
                else:
                    turns.append(Message(role, text))
        meta = json.loads(first.meta)
        for name in (self._params.role, self._params.order):
            meta.pop(name, None)
        return replace(
            first,
            messages=tuple(turns),
            text=None,
            label=next((row.label for row in ranked if row.label is not None), None),
            meta=json.dumps(meta, ensure_ascii=False, sort_keys=True, separators=(",", ":")),
            parents=tuple(row.row_id for row in ranked),
        )
