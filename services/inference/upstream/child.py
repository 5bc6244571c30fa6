"""Forwarding as a process: frames from the worker on stdin, the engine's frames on stdout.

`python -m services.inference.upstream.child`; `shared/frames.py` has the framing. Needs no torch. It ends at once when
stdin closes or its parent is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
from pydantic import ValidationError

from services.inference.upstream.forwarding import Forwarding
from services.inference.upstream.messages import CONFIGURE, OPERATION, Configure, Forward
from services.inference.upstream.slots import Slots
from shared.contracts.upstream import SETTING
from shared.errors import InvalidInput
from shared.frames import Frame, FrameError, claim_stdout, read_frames
from shared.outbound_async import GuardedTransport

log = logging.getLogger(__name__)

PARENT_POLL_S = 1.0


class Forwarder:
    """The requests of this process; belongs to one event loop. Servers are told apart by their URLs."""

    def __init__(self, config: Configure, write: Callable[[Frame], None]) -> None:
        self._config = config
        self._write = write
        self._slots: dict[str, Slots] = {}
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def handle(self, frame: Frame) -> None:
        """Obey one frame; what is wrong with it is answered with an error frame."""
        try:
            message = OPERATION.validate_python(frame)
        except ValidationError as exc:
            # Places and complaints alone: what was sent holds a key.
            first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(map(str, first["loc"]))
            names = frame.get("ids")
            for name in names if isinstance(names, list) else [frame.get("id")]:
                self._write(_error(name, f"{place}: {first['msg']}"))
            return
        if isinstance(message, Forward):
            self._begin(message)
        elif (task := self._tasks.get(message.id)) is not None:
            # A choice's request is that of all of them.
            task.cancel()

    def _begin(self, ask: Forward) -> None:
        url = ask.upstream.url
        if url not in self._slots:
            self._slots[url] = Slots(self._config.slots)
            transport = GuardedTransport(
                self._config.hosts, setting=SETTING, connections=self._config.slots + 1
            )
            self._clients[url] = httpx.AsyncClient(transport=transport, trust_env=False)
        forwarding = Forwarding(ask, self._write, self._config.silence_s)
        task = asyncio.create_task(forwarding.run(self._slots[url], self._clients[url]))
        self._tasks |= dict.fromkeys(ask.ids, task)

        def ended(task: asyncio.Task[None]) -> None:
            for name in ask.ids:
                self._tasks.pop(name, None)
            if task.cancelled():
                forwarding.cancelled()
            elif (exc := task.exception()) is not None:
                log.error("forwarding_failed", exc_info=exc)

        task.add_done_callback(ended)


def _error(name: Any, message: str) -> Frame:
    told = name if isinstance(name, str) else None
    return {
        "type": "error", "id": told, "code": InvalidInput.code, "message": message, "param": None, "retryable": False
    }  # fmt: skip


def _watch_parent(parent: int) -> None:
    """stdin may stay open in a process that the worker started after this one."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(0)


def _read(take: Callable[[Frame], None]) -> None:
    """Hand every frame on; the process ends with the stream, for nobody is there to finish anything for."""
    try:
        for frame in read_frames(sys.stdin.buffer):
            take(frame)
    except (FrameError, ValueError, RuntimeError) as exc:
        log.critical("worker_spoke_nonsense", extra={"error": type(exc).__name__})
    os._exit(0)


async def _serve(write: Callable[[Frame], None]) -> None:
    loop, forwarder = asyncio.get_running_loop(), None

    def obey(frame: Frame) -> None:
        nonlocal forwarder
        if forwarder is not None:
            forwarder.handle(frame)
            return
        try:
            forwarder = Forwarder(CONFIGURE.validate_python(frame), write)
            write({"type": "ready"})
        except ValidationError as exc:
            write(_error(None, f"not a configuration: {exc.errors(include_input=False)[0]['msg']}"))

    threading.Thread(target=_read, args=(lambda f: loop.call_soon_threadsafe(obey, f),), daemon=True).start()
    await asyncio.Event().wait()


def main() -> int:
    write = claim_stdout()
    # The worker decides when this process ends: by closing stdin, or by a kill.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()

    def told(frame: Frame) -> None:
        try:
            write(frame)
        except BrokenPipeError:
            os._exit(0)

    asyncio.run(_serve(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
