"""What a dead process leaves behind: its children become ours, get a moment to notice, and are ended.
Linux only; elsewhere they become init's and this sees none."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Set
from contextlib import suppress

import psutil

from deploy import processes
from deploy.processes import Identity

log = logging.getLogger("supervisor")

PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 10.0  # seconds: they should end by themselves, since the pipe to their parent is closed


def adopt_from_now_on() -> None:
    """Ask the kernel to hand us every descendant whose parent dies."""
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        log.warning("no_subreaper")


class Orphans:
    """Those that we have adopted and that still run, each with the moment at which it is killed."""

    def __init__(self) -> None:
        self._due: dict[Identity, float] = {}

    def next_due(self) -> list[float]:
        """Monotonic times at which `watch` has something to do."""
        return list(self._due.values())

    def adopt(self, known: Set[int]) -> None:
        """Take in every child of ours whose pid is not in `known`."""
        for child in psutil.Process().children():
            identity = processes.identify(child.pid)
            if identity and child.pid not in known and identity not in self._due:
                self._due[identity] = time.monotonic() + PATIENCE

    def watch(self, known: Set[int]) -> None:
        """Bury the dead among them, and kill those that had their time."""
        self._bury(known)
        for orphan, due in list(self._due.items()):
            if not processes.alive(orphan):
                del self._due[orphan]
            elif time.monotonic() >= due:
                log.warning("orphan_killed", extra={"pid": orphan.pid})
                processes.send(orphan, signal.SIGKILL, group=True)
                self._due[orphan] = time.monotonic() + PATIENCE

    def end_all(self) -> None:
        """Those that are still there, within seconds: everything that was meant to run has ended."""
        self.adopt(set())
        processes.end(self._due, stop_signal=signal.SIGTERM, grace=5)
        self._bury(set())

    def _bury(self, known: Set[int]) -> None:
        if not hasattr(os, "waitid"):
            return
        with suppress(ChildProcessError):
            # those in `known` are waited for by whoever started them
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if found.si_pid in known:
                    break
                os.waitpid(found.si_pid, 0)
