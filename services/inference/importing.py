"""One import of a model: its files out of a hub, and the check in a child process. Knows no queue and no SQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from services.inference.hub import Hub, HubFile
from shared.artifacts import Artifacts
from shared.child import Child, ChildGone
from shared.contracts.models import ModelFile
from shared.errors import HeliuError
from shared.frames import Frame
from shared.stop import ChildCrashed, Stop, Stopped

TELL_S = 2.0


class Job(Protocol):
    """What an import needs of its job's context."""

    asked: threading.Event
    reason: Stop | None

    def check(self) -> None: ...

    def touch(self) -> None: ...


def fetch(
    hub: Hub,
    store: Artifacts,
    files: Sequence[HubFile],
    known: Mapping[str, str],
    job: Job,
    moved: Callable[[int], None],
    fetched: Callable[[HubFile, str], None],
) -> tuple[ModelFile, ...]:
    """The hub's files in the store. `known` has the objects of those that an earlier attempt brought; `moved` hears
    now and then how many bytes of all are here, `fetched` of each file as it is whole."""
    done, told = 0, time.monotonic()

    def tick(count: int) -> None:
        nonlocal done, told
        job.check()
        job.touch()
        done += count
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            moved(done)

    found = []
    for file in files:
        job.check()
        held = known.get(file.path)
        if held is None:
            held = hub.fetch(file, store, tick=tick)
            fetched(file, held)
        else:
            done += file.bytes
        found.append(ModelFile(path=file.path, object=held, bytes=file.bytes))
    return tuple(found)


def check(
    job: Job,
    folder: Path,
    *,
    kind: str | None,
    base: Path | None,
    threads: int,
    module: str = "services.inference.inspection_child",
) -> Frame:
    """{"kind", "info", "warnings"} of a folder. Raises the check's own typed error, Stopped, or ChildCrashed."""
    child = Child(module)
    try:
        asked: dict[str, Any] = {
            "folder": str(folder.absolute()),
            "kind": kind,
            "base": str(base.absolute()) if base is not None else None,
            "threads": threads,
        }
        try:
            child.send(asked)
        except ChildGone as exc:
            raise ChildCrashed(str(exc)) from exc
        for frame in child.frames():
            if job.asked.is_set():
                child.kill()
                assert job.reason is not None
                raise Stopped(job.reason)
            if frame is None:
                continue
            if frame["type"] == "error":
                raise HeliuError(frame["message"], code=frame["code"], param=frame.get("param"))
            return frame
    finally:
        child.close()
    raise ChildCrashed(f"the check died: {child.how_it_ended()}")
