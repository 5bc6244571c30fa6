"""The worker's engine: one child process that many threads ask, restarted when it dies. Knows frames, no models.

A death of the child fails what was in it with a typed, retryable error; the next request starts a new one.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from shared.child import Child, ChildGone
from shared.errors import Unavailable
from shared.frames import Frame

log = logging.getLogger(__name__)

RESTART_PAUSE_S = (0.0, 0.5, 1.0, 2.0, 5.0)


class EngineCrashed(Unavailable):
    """The engine's process died with this request in it."""

    code = "engine_crashed"


class Call:
    """Requests in the engine that belong together: their frames, and a way to give them up."""

    def __init__(self, ids: Sequence[str], process: EngineProcess, heard: queue.SimpleQueue[Frame]) -> None:
        self.ids = tuple(ids)
        self._process = process
        self._cancelled = False
        self.child: Child | None = None
        self.heard = heard

    def frames(self, poll_s: float = 0.25) -> Iterator[Frame | None]:
        """Yield frames until each request has had its `done` or `error`, and None at every pause of `poll_s`."""
        left = set(self.ids)
        while left:
            try:
                frame = self.heard.get(timeout=poll_s)
            except queue.Empty:
                yield None
                continue
            if frame["type"] in ("done", "error"):
                left.discard(frame["id"])
            yield frame

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._process.cancel(self)


class EngineProcess:
    """Starts the child at the first request; thread-safe."""

    def __init__(self, config: dict[str, Any], *, module: str = "services.inference.child") -> None:
        self._config = {"op": "configure", **config}
        self._module = module
        self._lock = threading.Lock()
        self._calls: dict[str, Call] = {}
        self._child: Child | None = None
        self._crashes = 0
        self._closed = False
        self._asked_stats = False
        # What the engine said of itself last, and since when it has each base, adapter and encoder (Unix seconds).
        self.stats: Frame = {}
        self.loaded_at: dict[str, float] = {}
        # What requests called these by; kept when they leave, for they may come back.
        self.names: dict[str, str] = {}

    def start(self) -> None:
        """Have a living child, waiting until it is ready. Raises EngineCrashed when it will not start."""
        with self._lock:
            self._ensure()

    def submit(self, requests: Sequence[Frame], heard: queue.SimpleQueue[Frame] | None = None) -> Call:
        """Hand requests to the engine (`op` generate where none is given); what it says of them goes to `heard`,
        which several calls may share. It answers each by its `id`, or one that has `ids` by these.

        Raises EngineCrashed when the engine does not take them.
        """
        ids = [str(name) for request in requests for name in request.get("ids", [request["id"]])]
        call = Call(ids, self, queue.SimpleQueue() if heard is None else heard)
        with self._lock:
            child = self._ensure()
            call.child = child
            self._calls |= dict.fromkeys(ids, call)
            try:
                for request in requests:
                    child.send({"op": "generate", **request})
            except ChildGone as exc:
                for request_id in ids:
                    self._calls.pop(request_id, None)
                raise EngineCrashed(str(exc)) from exc
        return call

    def cancel(self, call: Call) -> None:
        """Give up what is left of a call."""
        with self._lock:
            if self._child is None:
                return
            for request_id in [name for name in call.ids if name in self._calls]:
                try:
                    self._child.send({"op": "cancel", "id": request_id})
                except ChildGone as exc:
                    log.debug("cancel_too_late", extra={"request": request_id, "error": str(exc)})

    def ask_stats(self) -> None:
        """Have `stats` renewed soon, if an engine runs and is not just starting; never waits."""
        if self._asked_stats or not self._lock.acquire(blocking=False):
            return
        try:
            if self._child is not None:
                self._asked_stats = True
                self._child.send({"op": "stats"})
        except ChildGone as exc:
            log.debug("stats_not_asked", extra={"error": str(exc)})
        finally:
            self._lock.release()

    def _ensure(self) -> Child:
        if self._closed:
            raise Unavailable("this worker is stopping", code="worker_stopping")
        if self._child is not None and self._child.alive:
            return self._child
        time.sleep(RESTART_PAUSE_S[min(self._crashes, len(RESTART_PAUSE_S) - 1)])
        child = Child(self._module)
        ready = threading.Event()
        refused: list[str] = []
        thread = threading.Thread(
            target=self._listen, args=(child, ready, refused), name="engine", daemon=True
        )
        thread.start()
        try:
            child.send(self._config)
        except ChildGone as exc:
            raise EngineCrashed(str(exc)) from exc
        if not ready.wait(120) or refused or not child.alive:
            child.kill()
            self._crashes += 1
            why = refused[0] if refused else child.how_it_ended()
            raise EngineCrashed(f"the engine did not start: {why}")
        self._child = child
        return child

    def _listen(self, child: Child, ready: threading.Event, refused: list[str]) -> None:
        for frame in child.frames(poll_s=5.0):
            if frame is None:
                continue
            kind = frame["type"]
            if kind == "ready":
                said: dict[str, object] = {key: frame[key] for key in ("device", "dtype") if key in frame}
                log.info("engine_ready", extra=said)
                ready.set()
            elif kind == "loaded":
                named = frame.get("adapter_id") or frame.get("encoder_id") or frame.get("base_id")
                self.loaded_at[str(named)] = time.time()
            elif kind == "stats":
                self.stats, self._asked_stats = frame, False
            elif "id" in frame and frame["id"] is not None:
                self._hand_out(frame)
            elif kind == "error":
                log.error("engine_error", extra={"code": frame.get("code"), "error": frame.get("message")})
                if not ready.is_set():
                    # Its configuration, which will be no better the longer it is waited for.
                    refused.append(str(frame.get("message")))
                    ready.set()
        ready.set()
        self._fail_all(child)

    def _hand_out(self, frame: Frame) -> None:
        ended = frame["type"] in ("done", "error")
        call = self._calls.pop(frame["id"], None) if ended else self._calls.get(frame["id"])
        if ended:
            self._crashes = 0
        if call is not None:
            call.heard.put(frame)

    def _fail_all(self, child: Child) -> None:
        how = child.how_it_ended()
        with self._lock:
            if self._child is child:
                self._child = None
                self.stats, self._asked_stats = {}, False
                self.loaded_at.clear()
            # Those of the child that died alone: a next one may already have requests in it.
            lost = {name: call for name, call in list(self._calls.items()) if call.child is child}
            for name in lost:
                del self._calls[name]
            if not self._closed:
                self._crashes += 1
                log.error("engine_died", extra={"how": how, "requests": len(lost)})
        for name, call in lost.items():
            call.heard.put(
                {
                    "type": "error",
                    "id": name,
                    "code": "engine_crashed",
                    "message": f"the engine died with this request in it: {how}",
                    "param": None,
                    "retryable": True,
                }
            )
        child.close()

    def close(self) -> None:
        """End the child; what is still in it fails."""
        with self._lock:
            self._closed = True
            child = self._child
        if child is not None:
            child.close()
