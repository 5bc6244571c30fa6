"""An answer on its way through the output guards of a task: entries of a worker in, entries for the client out."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from shared import semconv
from shared.contracts.task import Guard
from shared.streams import Entry
from shared.task.guarded import GuardedAnswer
from shared.telemetry import Tracing


class Guarded(GuardedAnswer):
    """When all choices have been refused, the worker has made enough; its last word is still read, for the ledger."""

    def __init__(self, guard: Guard, count: int) -> None:
        super().__init__(guard, count)
        self._began_ns = 0

    def entry(self, entry: Entry) -> Entry | None:
        """The entry with the texts that may be shown; None for a token that is kept back."""
        if entry.type == "done":
            return _with(entry, self.done(entry.data))
        if entry.type != "token":
            return entry
        shown = self.token(entry.data)
        return _with(entry, shown) if shown is not None else None

    async def entries(self, source: AsyncIterator[Entry]) -> AsyncGenerator[Entry, None]:
        """The worker's entries as they may be shown."""
        try:
            async for entry in source:
                if entry.type in ("token", "done"):
                    self._began_ns = self._began_ns or time.time_ns()
                if (shown := self.entry(entry)) is not None:
                    yield shown
        finally:
            await source.aclose()  # type: ignore[attr-defined]

    def record(self, tracing: Tracing, parent: str) -> None:
        """The span of the guards, with what they did and no text; none where nothing was answered."""
        if not self._began_ns:
            return
        tracing.record(
            "guard.output",
            self._began_ns,
            time.time_ns(),
            parent=parent,
            attributes={
                semconv.GUARD_REFUSED: ", ".join(self.refused) or None,
                semconv.GUARD_MASKED: self.masked,
            },
        )


def _with(entry: Entry, data: dict[str, Any]) -> Entry:
    return Entry(entry.request, entry.attempt, entry.seq, entry.type, data)
