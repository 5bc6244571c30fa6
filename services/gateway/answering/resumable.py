"""Live answers that outlive the connection that they were asked on: made on when their client has gone, and kept."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from services.gateway.answering.answers import Answer
from services.gateway.answering.guarded import Guarded
from services.gateway.answering.ledger import Ledger
from services.gateway.answering.orphans import Orphans
from services.gateway.answering.stored import CANCELLED, Storing
from shared.contracts.marking import Marking
from shared.contracts.task import Guard
from shared.errors import HeliuError
from shared.kept import Keep, KeptAnswers, Watch
from shared.streams import Entry

log = logging.getLogger(__name__)


class Resumable:
    """One such answer, from before its request is sent. Iterate it as the entries that it was given."""

    def __init__(self, kept: KeptAnswers, keep: Keep, orphans: Orphans) -> None:
        self._orphans = orphans
        self._heard: asyncio.Queue[Entry | BaseException | None] = asyncio.Queue()
        self._watch: Watch = kept.watch(keep)
        self._task: asyncio.Task[None] | None = None

    def read(self, entries: AsyncIterator[Entry]) -> Resumable:
        """Read `entries` on a task of its own: a client that goes interrupts whoever it waited for, and not this."""
        self._task = asyncio.create_task(self._read(entries), name="resumable")
        return self

    async def _read(self, entries: AsyncIterator[Entry]) -> None:
        try:
            async for entry in entries:
                self._heard.put_nowait(entry)
            self._heard.put_nowait(None)
        except BaseException as exc:
            self._heard.put_nowait(exc)
            if not isinstance(exc, Exception):
                raise
        finally:
            await entries.aclose()  # type: ignore[attr-defined]

    def __aiter__(self) -> Resumable:
        return self

    async def __anext__(self) -> Entry:
        heard = await self._heard.get()
        if heard is None:
            raise StopAsyncIteration
        if isinstance(heard, BaseException):
            raise heard
        return heard

    async def orphan(self, answer: Answer, ledger: Ledger) -> None:
        """Its client has gone and may come back: go on, for as long as the worker does."""
        self._orphans.adopt(self._finish(answer, ledger))
        await self._watch.leave()

    async def aclose(self) -> None:
        """Nobody will come back: the work is cancelled where it goes on."""
        await self._watch.leave()
        await self._stop()

    async def _stop(self) -> None:
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.1)

    async def _finish(self, answer: Answer, ledger: Ledger) -> None:
        status = "cancelled"
        try:
            async for entry in self:
                if entry.type == "token":
                    answer.token(entry.data)
                elif entry.type == "done":
                    deque(answer.done(entry.data), maxlen=0)
                    status = "cancelled" if given_up(entry) else "ok"
        except HeliuError:
            status = "error"
        except Exception:
            status = "error"
            log.exception("orphan_failed", extra={"answer": answer.id})
        finally:
            ledger.close(status, answered=True)
            await self._stop()


def given_up(entry: Entry) -> bool:
    """Whether a `done` entry says that the answer was not made to its end."""
    return any(choice["finish_reason"] == CANCELLED for choice in entry.data["choices"])


def about(
    answer: Answer,
    tenant: str,
    choices: int,
    guard: Guard | None,
    ledger: Ledger,
    accept_s: float,
    storing: Storing | None = None,
) -> dict[str, Any]:
    """What who takes an answer up again must know of its request."""
    return {
        "tenant": tenant,
        "endpoint": answer.endpoint,
        "model": answer.model,
        "created": answer.created,
        "include_usage": answer.include_usage,
        "choices": choices,
        "guard": guard.model_dump(mode="json") if guard is not None else None,
        "marking": answer.marking.model_dump(mode="json") if answer.marking is not None else None,
        "row": ledger.dump(),
        "storing": storing.dump() if storing is not None else None,
        "accepted_by": time.time() + accept_s,
    }


def begin(answer_id: str, told: dict[str, Any], *, include_usage: bool) -> tuple[Answer, Guarded | None]:
    """The same answer, as it was before its first entry."""
    answer = Answer(
        told["endpoint"],
        told["model"],
        include_usage or told["include_usage"],
        id=answer_id,
        created=told["created"],
        # One that was kept by an older gateway does not say.
        marking=Marking.model_validate(told["marking"]) if told.get("marking") else None,
    )
    guard = told["guard"]
    return answer, Guarded(Guard.model_validate(guard), told["choices"]) if guard is not None else None
