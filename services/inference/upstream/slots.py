"""Places in one upstream: live requests first, and some that batches never take. For one event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """`slots` requests at once, of which rows of batches take three quarters at most, and one in any case."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._most_rows = max(1, slots * 3 // 4)
        self._busy = 0
        self._rows = 0
        self._live_waiting: deque[asyncio.Future[None]] = deque()
        self._rows_waiting: deque[asyncio.Future[None]] = deque()

    @property
    def busy(self) -> int:
        return self._busy

    @property
    def waiting(self) -> int:
        return len(self._live_waiting) + len(self._rows_waiting)

    @asynccontextmanager
    async def place(self, *, live: bool) -> AsyncIterator[None]:
        """A place for the length of the block, waited for in order of arrival."""
        await self._enter(live)
        try:
            yield
        finally:
            self._leave(live)

    async def _enter(self, live: bool) -> None:
        line = self._live_waiting if live else self._rows_waiting
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # Given the place in the moment of leaving.
                self._leave(live)
            else:
                line.remove(turn)
            raise

    def _leave(self, live: bool) -> None:
        self._busy -= 1
        self._rows -= 0 if live else 1
        self._admit()

    def _admit(self) -> None:
        while self._busy < self._slots:
            if self._live_waiting:
                turn = self._live_waiting.popleft()
            elif self._rows_waiting and self._rows < self._most_rows:
                turn = self._rows_waiting.popleft()
                self._rows += 1
            else:
                return
            self._busy += 1
            turn.set_result(None)
