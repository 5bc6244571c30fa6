"""An answer on its way through the output guards of a task: entries of a worker in, entries for the client out."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from shared import semconv
from shared.contracts.task import Guard
from shared.streams import Entry
from shared.task.guards import FILTERED, OutputGuard
from shared.telemetry import Tracing


class Guarded:
    """Guards each choice by itself. A choice that is refused ends at once with the reason `content_filter`.

    When all `count` of them have ended so, the worker has made enough; its last word is still read, for the ledger.
    """

    def __init__(self, guard: Guard, count: int) -> None:
        self._guard = guard
        self._count = count
        self._choices: dict[int, OutputGuard] = {}
        self._tokens: dict[int, int] = {}
        self._began_ns = 0

    def enough(self) -> bool:
        """Whether nothing more of the answer will be shown."""
        return sum(choice.refused is not None for choice in self._choices.values()) == self._count

    @property
    def refused(self) -> list[str]:
        """Names of the guards that ended a choice."""
        return sorted({choice.refused for choice in self._choices.values() if choice.refused})

    async def entries(self, source: AsyncIterator[Entry]) -> AsyncGenerator[Entry, None]:
        """The worker's entries with the texts that may be shown; entries of tokens without one are kept back."""
        try:
            async for entry in source:
                if entry.type in ("token", "done"):
                    self._began_ns = self._began_ns or time.time_ns()
                if entry.type == "done":
                    yield _with(entry, self._done(entry.data))
                elif entry.type != "token":
                    yield entry
                elif (shown := self._token(entry.data)) is not None:
                    yield _with(entry, shown)
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
                semconv.GUARD_MASKED: sum(choice.masked for choice in self._choices.values()),
            },
        )

    def _token(self, data: dict[str, Any]) -> dict[str, Any] | None:
        index = int(data.get("choice", 0))
        choice = self._choice(index)
        if choice.refused is not None:
            return None
        # Tokens are counted with the text that they came to, and so never lost.
        self._tokens[index] = self._tokens.get(index, 0) + int(data.get("tokens", 1))
        text, reason = choice.push(str(data["text"])), data.get("finish_reason")
        if reason is not None and choice.refused is None:
            text += choice.end()
        if choice.refused is not None:
            reason = FILTERED
        if not text and reason is None:
            return None
        told = {"finish_reason": reason} if reason is not None else {}
        return {**data, "text": text, "tokens": self._tokens.pop(index), **told}

    def _done(self, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "choices": [self._ended(i, choice) for i, choice in enumerate(data["choices"])]}

    def _ended(self, index: int, data: dict[str, Any]) -> dict[str, Any]:
        choice, whole = self._choice(index), str(data["text"])
        choice.push(whole[choice.seen :])
        choice.end()
        reason = FILTERED if choice.refused is not None else data["finish_reason"]
        return {**data, "text": choice.shown, "finish_reason": reason}

    def _choice(self, index: int) -> OutputGuard:
        return self._choices.setdefault(index, OutputGuard(self._guard))


def _with(entry: Entry, data: dict[str, Any]) -> Entry:
    return Entry(entry.request, entry.attempt, entry.seq, entry.type, data)
