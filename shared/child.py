"""The worker's hold on a child process: started by exec in a session of its own, fed and heard through frames.

Knows nothing of what the child does. The child ends when its stdin closes, which the kernel does for a dead worker.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from shared.frames import Frame, FrameError, FrameWriter, read_frames

log = logging.getLogger(__name__)

# Threads that wait by spinning take the cores from whoever works: beside one busy neighbour a trainer made 650
# tokens a second with the default and 3,900 with this.
OPENMP = {"OMP_WAIT_POLICY": "passive"}


class ChildGone(Exception):
    """The child does not take frames any more."""


class Child:
    """One `python -m module` process. `frames` yields what it says, and None at every pause of `poll_s`."""

    def __init__(self, module: str, *, environ: Mapping[str, str] | None = None) -> None:
        self.module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            # The settings of the platform hold secrets that a trainer or engine has no use for.
            env={k: v for k, v in (environ or os.environ).items() if not k.startswith("HELIU_")} | OPENMP,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: BinaryIO = self._process.stdin  # type: ignore[assignment]  # Popen's IO[bytes]
        self._writer = FrameWriter(self._stdin)
        self._heard: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, frame: Frame) -> None:
        """Hand the child a frame; raises ChildGone when it has ended."""
        try:
            self._writer(frame)
        except (BrokenPipeError, ValueError, OSError) as exc:
            raise ChildGone(f"{self.module} has ended: {self.how_it_ended()}") from exc

    def frames(self, poll_s: float = 0.5) -> Iterator[Frame | None]:
        """Yield frames, and None whenever `poll_s` passes without one; ends when the child closes its side."""
        while True:
            try:
                frame = self._heard.get(timeout=poll_s)
            except queue.Empty:
                yield None
                continue
            if frame is None:
                return
            yield frame

    def _read(self, stdout: BinaryIO) -> None:
        try:
            for frame in read_frames(stdout):
                self._heard.put(frame)
        except (FrameError, ValueError) as exc:
            log.error("child_spoke_nonsense", extra={"child_module": self.module, "error": str(exc)})
            self.kill()
        finally:
            self._heard.put(None)

    def how_it_ended(self, wait_s: float = 5.0) -> str:
        """The end of the process in words, for an error message."""
        try:
            code = self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return "it closed its side and still runs"
        if code >= 0:
            return f"exit status {code}"
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory, as a rule)" if name == "SIGKILL" else "")

    def kill(self) -> None:
        """SIGKILL to the child and everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self, grace_s: float = 2.0) -> None:
        """Close its stdin, which ends it, and make sure of it."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._reader.join(5)
