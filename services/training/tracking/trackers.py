"""The worker's side of other trackers: hands the steps of a run to a process that tells them. Knows no client.

Nothing here waits for a tracker but the end, and that not for long: the steps go through a bounded line to a thread.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from shared.child import Child, ChildGone
from shared.errors import ConfigurationError
from shared.frames import Frame

log = logging.getLogger(__name__)

MODULE = "services.training.tracking.tracker_child"
# Steps that may wait for a slow tracker; what comes then is dropped, and told of.
ROOM = 10_000
END_S = 30.0
SECRET = ("_KEY", "_TOKEN", "_PASSWORD", "_SECRET")


def check_installed(names: Sequence[str]) -> None:
    """Raise ConfigurationError for a tracker that was asked for and is not there. Imports none."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"HELIU_TRACKERS names {', '.join(missing)}, and the package is not installed on this worker; "
            f"`pip install {' '.join(missing)}` there, or leave it out",
            param="HELIU_TRACKERS",
        )


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """What the trackers' own settings hide: keys, tokens, passwords."""
    own = ("MLFLOW_", "WANDB_", "AWS_")
    return [v for name, v in environ.items() if name.startswith(own) and name.endswith(SECRET) and v]


class Trackers:
    """One run's trackers. `heard` gives what they said, for the thread that runs the job to write down."""

    def __init__(
        self,
        names: Sequence[str],
        run: Mapping[str, Any],
        earlier: Mapping[str, str],
        *,
        module: str = MODULE,
        room: int = ROOM,
    ) -> None:
        """`run` is its id, name and settings; `earlier` are the ids that trackers gave it in an earlier attempt."""
        self._names, self._module = list(names), module
        self._line: queue.Queue[Frame] = queue.Queue(room)
        self._heard: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._lost = False
        self._given_up = False
        self._child: Child | None = None
        # Not in the line, whose oldest makes room for the end.
        self._begin = {"op": "begin", "trackers": self._names, "run": dict(run), "earlier": dict(earlier)}
        self._thread = threading.Thread(target=self._work, name="trackers", daemon=True)
        self._thread.start()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._put({"op": "step", "step": step, "values": dict(values)})

    def end(self, how: str, patience_s: float = END_S) -> None:
        """`how` is succeeded, failed, cancelled or interrupted. Returns when all is told, or patience has ended."""
        while not self._put({"op": "end", "how": how}):
            # The end goes before the oldest of the steps that nobody takes.
            with contextlib.suppress(queue.Empty):
                self._line.get_nowait()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            self._warn(f"it did not take the end of the run within {patience_s:g} s")
            self._given_up = True
            if self._child is not None:
                self._child.kill()

    def heard(self) -> Iterator[Frame]:
        while True:
            try:
                yield self._heard.get_nowait()
            except queue.Empty:
                return

    def _put(self, frame: Frame) -> bool:
        """Whether there was room for it."""
        try:
            self._line.put_nowait(frame)
        except queue.Full:
            if not self._lost:
                self._lost = True
                self._warn("too slow, some steps were not told")
            return False
        return True

    def _work(self) -> None:
        child = self._child = Child(self._module)
        if self._given_up:
            child.kill()
        try:
            child.send(self._begin)
            while True:
                frame = self._line.get()
                child.send(frame)
                if frame["op"] == "end":
                    break
                self._listen(child, 0.0)
            self._listen(child, END_S)
        except ChildGone as exc:
            self._listen(child, 0.0)
            self._warn(f"its process ended: {exc}")
        except Exception:
            log.exception("trackers_failed")
            self._warn("it failed; the log of the worker tells more")
        finally:
            child.close()

    def _listen(self, child: Child, wait_s: float) -> None:
        """Take what the process says; with `wait_s` until it ends, and for no longer than that."""
        deadline = time.monotonic() + wait_s
        for frame in child.frames(poll_s=min(0.2, wait_s)):
            if frame is not None:
                self._heard.put(frame)
            elif time.monotonic() >= deadline:
                return

    def _warn(self, what: str) -> None:
        self._heard.put({"type": "warning", "tracker": " and ".join(self._names), "message": what})
