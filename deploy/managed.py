"""One process under the supervisor: its state, its falls, and how hard it is pressed to end. Starts nothing."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import logs, processes
from deploy.processes import Identity
from deploy.table import Spec

log = logging.getLogger("supervisor")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between a fall and the restart
STEADY_SECONDS = 60.0  # ready for so long, a process is forgiven its earlier falls
HARD_SECONDS = 10.0  # between the hard signal and SIGKILL


@dataclass
class Process:
    """One process of the table. state: waiting, starting, ready, backoff, stopping, stopped, done, failed."""

    spec: Spec
    index: int
    state: str = "waiting"
    child: subprocess.Popen[bytes] | None = None
    identity: Identity | None = None
    since: float = 0.0  # wall clock, when the state began
    restarts: int = 0
    falls: int = 0  # in a row
    due: float = 0.0  # monotonic; backoff: next start, stopping: next stronger signal
    asked: int = 0  # how many signals a stopping process has had
    retired: bool = False  # forget it once it has stopped
    last_exit: int | None = None
    metrics: str = ""  # where its /metrics are, as it says itself

    @property
    def name(self) -> str:
        return self.spec.process_name(self.index)

    @property
    def satisfied(self) -> bool:
        """Whether those that need it may start."""
        return self.state == ("done" if self.spec.kind == "task" else "ready")

    def enter(self, state: str) -> None:
        log.info("process_%s %s", state, self.name)
        self.state, self.since = state, time.time()

    def started(self, child: subprocess.Popen[bytes]) -> None:
        self.metrics = ""
        self.child, self.identity = child, processes.identify(child.pid)
        self.enter("starting")

    def ended(self, code: int, *, wanted: bool) -> None:
        """It is gone: as it was told to, as a task does, or by a fall that is mended after a pause."""
        steady = self.state == "ready" and time.time() - self.since >= STEADY_SECONDS
        wanted = wanted or self.state == "stopping"
        self.child, self.identity, self.last_exit = None, None, code
        if wanted:
            self.enter("stopped")
        elif self.spec.kind == "task":
            self.enter("done" if code == 0 else "failed")
        else:
            if steady:
                self.falls = 0
            self.fall(code)

    def fall(self, code: int | None) -> None:
        """Wait before the next start, twice as long after each fall in a row."""
        self.falls += 1
        self.restarts += 1
        self.due = time.monotonic() + min(FIRST_PAUSE * 2 ** min(self.falls - 1, 10), LONGEST_PAUSE)
        log.warning("process_fell %s exit=%s falls=%d", self.name, code, self.falls)
        self.enter("backoff")

    def stop(self) -> None:
        """Ask it to drain; `press` again when `due` has come."""
        if self.state == "stopping":
            return
        if self.child is None:
            self.enter("stopped")
            return
        self.asked = 0
        self.enter("stopping")
        self.press()

    def press(self) -> None:
        """The next stronger signal: a request to drain, after the grace the hard one, and in the end SIGKILL."""
        steps = (
            (self.spec.stop_signal, self.spec.grace),
            (self.spec.hard_signal, HARD_SECONDS),
            (int(signal.SIGKILL), HARD_SECONDS),
        )
        number, patience = steps[min(self.asked, 2)]
        if self.asked:
            log.warning("process_pressed %s signal=%d", self.name, number)
        if self.identity:
            processes.send(self.identity, number, group=number == signal.SIGKILL)
        self.asked += 1
        self.due = time.monotonic() + patience

    def describe(self, home: Path) -> dict[str, Any]:
        """What clients see of it, as JSON, without secrets."""
        return {
            "name": self.name,
            "service": self.spec.name,
            "kind": self.spec.kind,
            "state": self.state,
            "pid": self.child.pid if self.child else None,
            "started": self.identity.started if self.identity else None,
            "restarts": self.restarts,
            "falls": self.falls,
            "since": self.since,
            "last_exit": self.last_exit,
            "metrics": self.metrics,
            "log": str(logs.path(home, self.spec.name, self.index)),
        }
