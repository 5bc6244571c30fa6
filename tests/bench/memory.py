"""Resident memory of the platform's processes with their children, looked at again and again. Knows no service."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

EVERY_S = 0.5
MIB = 1024 * 1024


class Memory:
    """Peaks in MiB by process for each phase. Services: RSS, children counted in. Servers: PSS, for Postgres's
    processes share their buffers."""

    def __init__(self) -> None:
        self.services: dict[str, int] = {}
        self.servers: dict[str, int] = {}
        self.peaks: dict[str, dict[str, float]] = {}

    def sample(self, phase: str) -> None:
        peaks = self.peaks.setdefault(phase, {})
        for name, pid in self.services.items():
            peaks[name] = max(peaks.get(name, 0.0), _resident(pid))
        for name, pid in self.servers.items():
            peaks[name] = max(peaks.get(name, 0.0), _proportional(pid))

    @contextmanager
    def watching(self, phase: str) -> Iterator[None]:
        """Sample until the block ends."""
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(EVERY_S):
                self.sample(phase)

        thread = threading.Thread(target=work, name="memory", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.sample(phase)

    def wait_for_engine(self, seconds: float) -> None:
        """Until the inference worker's engine has stopped growing: it loads its libraries by itself."""
        deadline = time.monotonic() + seconds
        before = 0.0
        while time.monotonic() < deadline:
            now = _resident(self.services["inference"])
            children = psutil.Process(self.services["inference"]).children()
            if children and now - before < 1.0:
                return
            before = now
            time.sleep(2.0)


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(pid: int) -> float:
    total = 0
    for process in _family(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / MIB


def _proportional(pid: int) -> float:
    total = 0
    for process in _family(pid):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / MIB
