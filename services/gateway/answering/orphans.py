"""Work of a gateway that no request waits for any more. Knows no route."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Orphans:
    """Answers whose client has gone, and which are read to their end for the ledger."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def adopt(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="orphan")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Leave them: what was counted so far is written."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=0.1)
