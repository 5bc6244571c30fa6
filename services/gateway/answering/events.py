"""The entries of an answer as the events of its stream, ready to be sent. Knows no request and no place to send to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from services.gateway.answering import sse
from services.gateway.answering.answers import Answer
from services.gateway.answering.places import Chunks
from shared.streams import Entry

# Stands for the text of a chunk while the rest of the event is made.
_TEXT = "\x00text\x00"
_PLAIN = frozenset({"choice", "text", "tokens"})


class Events:
    """Events of one answer, in order; with ids where its chunks are `placed`.

    Most events of a stream differ from the one before in their text alone, so what is around it is made once.
    """

    def __init__(self, answer: Answer, *, placed: bool) -> None:
        self._answer = answer
        self._placed = placed
        self._chunks = Chunks(answer, placed=placed)
        self._begun = False
        self._around: dict[int, tuple[bytes, bytes]] = {}

    def take(self, entry: Entry) -> list[bytes]:
        """The events that an entry comes to; one a token, as `Chunks` makes them."""
        if self._begun and not self._placed and entry.type == "token" and entry.data.keys() <= _PLAIN:
            made = self._text_alone(entry.data)
            if made is not None:
                return [made]
        made_anew = [
            sse.event(chunk, id_=str(place) if self._placed else None)
            for place, chunk in self._chunks.take(entry)
        ]
        self._begun = self._begun or bool(made_anew)
        if entry.type == "waiting":
            made_anew.append(sse.comment(entry.data["message"]))
        return made_anew

    def _text_alone(self, data: Mapping[str, Any]) -> bytes | None:
        """The event of a token that has nothing but text; None for one that is not of that kind, or says more."""
        index, text = int(data.get("choice", 0)), str(data["text"])
        if not text or not self._answer.texts.get(index):
            # An empty one has another shape, and the first of a choice may bring a label.
            return None
        around = self._around.get(index)
        if around is None:
            around = self._around[index] = _split(sse.event(self._answer.text_chunk(index, _TEXT)))
        self._answer.add(index, text, int(data.get("tokens", 1)))
        return around[0] + json.dumps(text, ensure_ascii=False).encode() + around[1]


def _split(event: bytes) -> tuple[bytes, bytes]:
    before, found, behind = event.partition(json.dumps(_TEXT).encode())
    assert found, "the text of a chunk is in its event"
    return before, behind
