"""A reader's way through the entries of an answer that others make: which chunks are news to its client. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from services.gateway.answering.answers import Answer
from services.gateway.answering.guarded import Guarded
from services.gateway.answering.places import Chunks, Place, restarted
from shared.streams import Entry


class Gap(Exception):
    """An entry is missing: what comes behind it cannot be told."""


class Follower:
    """Takes entries in the order in which they were kept, of whichever attempts; one more attempt begins anew.

    Its client has all up to `place`. What a new attempt says again is passed over if it is the same, and
    `answer_restarted` if it is not: so a client that puts chunks together neither doubles nor loses any.
    """

    def __init__(self, place: Place, begin: Callable[[], tuple[Answer, Guarded | None]]) -> None:
        self.place = place
        self.attempt = 0
        self.done = False
        self.answer, self.guarded = begin()
        self._begin = begin
        self._chunks = Chunks(self.answer)
        self._reached = Place()
        self._expected = 0

    @property
    def begun(self) -> bool:
        """Whether its worker has said anything of the newest attempt."""
        return self._expected > 0

    def take(self, entry: Entry) -> Iterator[tuple[Place, dict[str, Any]]]:
        """The chunks of an entry that the client has not had. Raises Gap, and HeliuError (`answer_restarted`)."""
        if entry.attempt > self.attempt:
            self._start(entry.attempt)
        if entry.attempt < self.attempt or entry.seq < self._expected:
            return
        if entry.seq > self._expected:
            raise Gap
        self._expected += 1
        shown = self.guarded.entry(entry) if self.guarded is not None else entry
        if shown is None:
            return
        for place, chunk in self._chunks.take(shown):
            self._reached = place
            if self._is_news(place):
                self.place = place
                yield place, chunk
        if entry.type == "done":
            self.done = True
            if self.place.count > self._reached.count:
                raise restarted()

    def _start(self, attempt: int) -> None:
        self.attempt, self._expected, self._reached = attempt, 0, Place()
        self.answer, self.guarded = self._begin()
        self._chunks = Chunks(self.answer)

    def _is_news(self, place: Place) -> bool:
        if place.count == self.place.count and place.digest != self.place.digest:
            raise restarted()
        return place.count > self.place.count
