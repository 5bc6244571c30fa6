"""The worker's side of a Python grader: a child process that is fed items one by one, and killed when it hangs."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shared.errors import HeliuError, InvalidInput

CHILD = Path(__file__).with_name("python_child.py")
START_S, ITEM_S = 20.0, 5.0
MEMORY_MB = 512
LONGEST_REPLY = 64 * 1024
# A grader that hung so often is not asked again: thousands of items would hold up a worker for days.
MOST_HANGS = 10
FAILED = "python_grader_failed"


class PythonGrading:
    """One grader over many items. The child has no environment, no folder of ours and no secrets; a new one is
    started after each that was killed."""

    def __init__(self, source: str, *, item_s: float = ITEM_S, memory_mb: int = MEMORY_MB) -> None:
        self._source = source
        self._item_s = item_s
        self._memory_mb = memory_mb
        self._hung = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="grader-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._kill()
        self._folder.cleanup()

    def grade(self, sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
        """What `grade(sample, item)` returns. Raises InvalidInput with what went wrong in it."""
        if self._hung >= MOST_HANGS:
            raise InvalidInput(f"the grader hung on {MOST_HANGS} items and is not asked again", code=FAILED)
        if self._child is None:
            self._start()
        told = self._ask({"sample": sample, "item": item}, self._item_s)
        if "score" in told:
            return float(told["score"])
        raise InvalidInput(str(told.get("error")), code=FAILED)

    def _start(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd=self._folder.name,
            start_new_session=True,
        )
        told = self._ask({"source": self._source, "memory_mb": self._memory_mb}, START_S)
        if not told.get("ready"):
            self._kill()
            raise InvalidInput(str(told.get("error")), code=FAILED)

    def _ask(self, question: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(question).encode() + b"\n")
            child.stdin.flush()
        except OSError:
            self._kill()
            raise InvalidInput("the grader's process ended", code=FAILED) from None
        return self._reply(child.stdout.fileno(), seconds)

    def _reply(self, pipe: int, seconds: float) -> dict[str, Any]:
        deadline, text = time.monotonic() + seconds, b""
        while not text.endswith(b"\n"):
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(pipe, 65536) if ready else b""
            text += part
            if not part or len(text) > LONGEST_REPLY:
                self._kill()
                self._hung += not ready
                why = "ended without an answer; it may have used too much memory" if ready else ""
                raise InvalidInput(
                    f"the grader's process {why or f'took longer than {seconds:g} s'}", code=FAILED
                )
        try:
            told = json.loads(text)
        except ValueError as exc:
            self._kill()
            raise InvalidInput("the grader's process answered what is no JSON", code=FAILED) from exc
        if not isinstance(told, dict):
            raise HeliuError("the grader's process answered no object", code=FAILED)
        return told

    def _kill(self) -> None:
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()
        self._child = None
