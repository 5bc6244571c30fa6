"""A worker's two engines behind one face: its own, and the process that forwards to other servers."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from services.inference.engine_process import Call, EngineProcess
from shared.errors import Unavailable
from shared.frames import Frame

FORWARD = "forward"


class Engines(EngineProcess):
    """The worker's own engine, which takes what is to be forwarded too. Each process starts when it is first needed."""

    def __init__(self, config: dict[str, Any], forwarding: dict[str, Any]) -> None:
        super().__init__(config)
        self._upstream = EngineProcess(forwarding, module="services.inference.upstream.child")
        # Where upstreams stand, by id, and until when that may be believed (monotonic seconds).
        self.upstreams: dict[str, tuple[dict[str, Any], float]] = {}

    def start_upstream(self) -> None:
        """Have the process that forwards, waiting until it is ready. Raises EngineCrashed when it will not start."""
        self._upstream.start()

    def submit(self, requests: Sequence[Frame], heard: queue.SimpleQueue[Frame] | None = None) -> Call:
        """As EngineProcess; the requests are all for the one engine or for the other."""
        if requests and requests[0].get("op") == FORWARD:
            return self._upstream.submit(requests, heard)
        return super().submit(requests, heard)

    def close(self) -> None:
        self._upstream.close()
        super().close()


def has_packages() -> bool:
    """Whether an engine could start here; looks for torch and does not import it."""
    return find_spec("torch") is not None


def check_packages(model: str) -> None:
    """Raise Unavailable (`no_worker`) where only upstreams can be served."""
    if not has_packages():
        raise Unavailable(
            f"the worker that got this for {model!r} has no packages for models of its own; it should name its "
            "upstreams in HELIU_MODELS, or have heliu[models] installed",
            code="no_worker",
        )
