"""The bases in memory, and which of them leaves when another one needs its place. Loads nothing, knows no request."""

from __future__ import annotations

from collections.abc import Callable

from services.inference.engine.generation import Generation
from services.inference.engine.request import EngineConfig, Priority
from services.inference.engine.runtime import Runtime
from shared.errors import Conflict, NotFound

# A base serves this many steps before a busy one is made to leave, or two that alternate would never run.
_LEAST_STEPS = 64


class Bases:
    """By id; one that is `closing` takes nothing more and leaves when its running rows have ended."""

    def __init__(self, config: EngineConfig, withdrawn: Callable[[Generation], None]) -> None:
        """`withdrawn` is given what waited in a base that leaves, with the tokens that it has."""
        self._most = config.max_models
        self._withdrawn = withdrawn
        self._closing: set[str] = set()
        self.runtimes: dict[str, Runtime] = {}

    def __contains__(self, base_id: str) -> bool:
        return base_id in self.runtimes

    def get(self, base_id: str) -> Runtime | None:
        return self.runtimes.get(base_id)

    def closing(self, base_id: str) -> bool:
        return base_id in self._closing

    def bytes(self) -> int:
        return sum(runtime.bytes() for runtime in self.runtimes.values())

    def full(self, coming: int) -> bool:
        """There is no place for one more beside the `coming` ones that are being read."""
        return len(self.runtimes) + coming >= self._most

    @property
    def busy(self) -> bool:
        return any(not runtime.idle for runtime in self.runtimes.values())

    @property
    def live(self) -> bool:
        """Some base serves live requests."""
        return any(map(_serves_live, self.runtimes.values()))

    def oldest_idle(self) -> tuple[str, float] | None:
        """The least recently used idle one, and when it was used."""
        idle = {name: runtime.last_used for name, runtime in self.runtimes.items() if runtime.idle}
        oldest = min(idle, key=lambda name: idle[name], default=None)
        return None if oldest is None else (oldest, idle[oldest])

    def ask_room(self, *, batch: bool) -> None:
        """Make the longest served busy base leave, unless one leaves already; batch never drives out live."""
        if self._closing:
            return
        candidates = [
            name
            for name, runtime in self.runtimes.items()
            if runtime.steps >= _LEAST_STEPS and not (batch and _serves_live(runtime))
        ]
        if not candidates:
            return
        victim = max(candidates, key=lambda name: self.runtimes[name].steps)
        self.close(victim)
        if not batch:
            self.runtimes[victim].scheduler.preempt_batch()

    def close(self, base_id: str) -> None:
        """Let it go once its running rows have ended; see `finish_closing`."""
        self._closing.add(base_id)
        self.runtimes[base_id].scheduler.admitting = frozenset()

    def finish_closing(self) -> None:
        for base_id in list(self._closing):
            if not self.runtimes[base_id].scheduler.running:
                self.evict(base_id)

    def evict(self, base_id: str) -> None:
        """Drop a base now."""
        runtime = self.runtimes.pop(base_id)
        self._closing.discard(base_id)
        for generation in runtime.withdraw_all():
            self._withdrawn(generation)

    def remove_adapter(self, adapter_id: str) -> None:
        """Let an adapter go. Raises NotFound, or Conflict while requests use it."""
        holders = [runtime for runtime in self.runtimes.values() if adapter_id in runtime.adapters]
        if not holders:
            raise NotFound(f"adapter {adapter_id!r} is not loaded", param="adapter_id")
        if any(runtime.adapters.pinned(adapter_id) for runtime in holders):
            raise Conflict(f"adapter {adapter_id!r} is in use", param="adapter_id", retryable=True)
        for runtime in holders:
            runtime.remove_adapter(adapter_id)


def _serves_live(runtime: Runtime) -> bool:
    scheduler = runtime.scheduler
    live = any(sequence.priority is Priority.LIVE for sequence in scheduler.running)
    return live or scheduler.waiting(Priority.LIVE) > 0
