"""Where a client is in an answer: ids of chunks that any process can go on from. Pure.

An id is a number of chunks and a digest of what was in them: so an answer that was made again goes on behind it only
where it says the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from services.gateway.answering.answers import Answer
from shared.errors import HeliuError, InvalidInput
from shared.streams import Entry

HEADER = "Last-Event-ID"
_ID = re.compile(r"(\d{1,9})-([0-9a-f]{16})")
_DIGEST_BYTES = 8


@dataclass(frozen=True)
class Place:
    """Behind the first `count` chunks of an answer; the default is its beginning."""

    count: int = 0
    digest: str = ""

    @classmethod
    def parse(cls, text: str | None) -> Place:
        """From an id that a client sends back. Raises InvalidInput."""
        if not text:
            return cls()
        found = _ID.fullmatch(text) if text.isascii() else None
        if found is None:
            raise InvalidInput(
                f"{HEADER} must be the id of a chunk of this answer, such as '7-0123456789abcdef', got {text[:80]!r}",
                param=HEADER,
            )
        return cls(int(found[1]), found[2])

    def __str__(self) -> str:
        return f"{self.count}-{self.digest}"


class Chunks:
    """Chunks of one answer with the place behind each. Equal entries make equal places.

    Places take half as long again as the chunks themselves: without `placed` they are all the beginning.
    """

    def __init__(self, answer: Answer, *, placed: bool = True) -> None:
        self.answer = answer
        self._placed = placed
        self._count = 0
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._opened = False

    def take(self, entry: Entry) -> Iterator[tuple[Place, dict[str, Any]]]:
        """The chunks that an entry comes to, before the first of them the opening."""
        answer = self.answer
        if not self._opened:
            self._opened = True
            for chunk in answer.opening():
                yield self._behind(chunk), chunk
        if entry.type == "token":
            chunk = answer.token(entry.data)
            yield self._behind(chunk), chunk
        elif entry.type == "done":
            for chunk in answer.done(entry.data):
                yield self._behind(chunk), chunk
            if answer.include_usage:
                chunk = answer.usage_chunk()
                yield self._behind(chunk), chunk

    def _behind(self, chunk: Mapping[str, Any]) -> Place:
        if not self._placed:
            return Place()
        said = json.dumps([_said(choice) for choice in chunk["choices"]], separators=(",", ":"))
        self._digest.update(said.encode())
        self._count += 1
        return Place(self._count, self._digest.hexdigest())


def _said(choice: Mapping[str, Any]) -> list[Any]:
    """What a reader puts together of a chunk: no probabilities, and of calls not the ids, which are drawn at random."""
    delta = choice.get("delta", choice)
    calls = [(call["index"], call["function"]) for call in delta.get("tool_calls", ())]
    return [choice["index"], delta.get("content", delta.get("text")), calls, choice["finish_reason"]]


def restarted() -> HeliuError:
    return HeliuError(
        "the answer was made again after a worker was lost, and goes on from another text than the one that this id "
        f"stands behind; read it from the beginning, without {HEADER}",
        code="answer_restarted",
        param=HEADER,
    )
