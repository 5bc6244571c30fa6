"""Requests that wait for a base or an adapter, in lines of those that wait for the same. Loads nothing."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from services.inference.engine.generation import Generation
from services.inference.engine.request import Priority, Request
from services.inference.engine.runtime import Runtime


@dataclass(eq=False)
class Entry:
    """A request that is not over; `generation` once it was tokenized, `runtime` while it is submitted."""

    request: Request
    order: int
    seed: int
    received: float
    received_ns: int
    generation: Generation | None = None
    runtime: Runtime | None = None


class Line(NamedTuple):
    """Requests that wait for the same base and adapter; live lines sort first."""

    batch: bool
    base: str
    adapter: str


class Parked:
    """The lines, each first in, first out."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Line, deque[Entry]] = OrderedDict()

    def __len__(self) -> int:
        """Requests in all lines."""
        return sum(map(len, self._lines.values()))

    def __contains__(self, line: Line) -> bool:
        return line in self._lines

    def lines(self) -> list[Line]:
        """Live ones first, and then the one that is longest there."""
        return sorted(self._lines, key=lambda line: line.batch)

    def park(self, entry: Entry) -> None:
        request = entry.request
        adapter = request.adapter.id if request.adapter is not None else ""
        line = Line(request.priority is Priority.BATCH, request.base.id, adapter)
        self._lines.setdefault(line, deque()).append(entry)

    def first(self, line: Line) -> Request:
        return self._lines[line][0].request

    def take(self, line: Line, most: int | None = None) -> Iterable[Entry]:
        """The first `most` of a line, or all."""
        entries = self._lines[line]
        taken = [entries.popleft() for _ in range(len(entries) if most is None else min(len(entries), most))]
        if not entries:
            del self._lines[line]
        return taken

    def remove(self, entry: Entry) -> None:
        """Forget a request, if it waits."""
        for line, entries in list(self._lines.items()):
            if entry in entries:
                entries.remove(entry)
                if not entries:
                    del self._lines[line]
