"""Reads bases and adapters in a thread of its own, one after another, while the engine goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from services.inference.engine.adapter_folder import AdapterWeights, read_adapter
from services.inference.engine.codec import Codec
from services.inference.engine.grammar import Vocabulary
from services.inference.engine.request import EngineConfig, ModelRef
from services.inference.engine.runner import ModelRunner
from shared.errors import HeliuError

Read = tuple[ModelRunner | AdapterWeights, Codec]


@dataclass(frozen=True)
class Load:
    kind: str
    base: str
    id: str
    started: float


class Loads:
    """What is being read. All methods belong to the engine's thread; `on_wake` is called from the loader's."""

    def __init__(
        self, config: EngineConfig, clock: Callable[[], float], on_wake: Callable[[], None] | None
    ) -> None:
        self._config = config
        self._clock = clock
        self._on_wake = on_wake
        self._vocabularies: dict[str, Vocabulary] = {}
        self._running: dict[Future[Read], Load] = {}
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="engine-loader")

    def __len__(self) -> int:
        return len(self._running)

    @property
    def bases(self) -> int:
        """How many of them are bases."""
        return sum(load.kind == "base" for load in self._running.values())

    def futures(self) -> list[Future[Read]]:
        return list(self._running)

    def names(self) -> list[str]:
        return [load.id for load in self._running.values()]

    def under_way(self, base_id: str, loaded_id: str) -> bool:
        """A base's own load has its id twice."""
        return any(load.base == base_id and load.id == loaded_id for load in self._running.values())

    def base(self, ref: ModelRef) -> None:
        self._start(Load("base", ref.id, ref.id, self._clock()), self._read_base, ref.path)

    def adapter(self, base_id: str, ref: ModelRef) -> None:
        self._start(Load("adapter", base_id, ref.id, self._clock()), self._read_adapter, ref.path)

    def ended(self) -> Iterator[tuple[Load, Read | HeliuError]]:
        """Those that are over, and what was read or why it was not."""
        for future in [future for future in self._running if future.done()]:
            load = self._running.pop(future)
            try:
                read: Read | HeliuError = future.result()
            except Exception as exc:  # noqa: BLE001 - whatever a broken folder makes a library raise
                read = failed(load, exc)
            yield load, read

    def close(self) -> None:
        """Let the thread end; a load under way is finished first."""
        self.thread.shutdown(cancel_futures=True)

    def _start(self, load: Load, read: Callable[[str], Read], path: str) -> None:
        future = self.thread.submit(read, path)
        self._running[future] = load
        if self._on_wake is not None:
            wake = self._on_wake
            future.add_done_callback(lambda _: wake())

    def _read_base(self, path: str) -> Read:
        return ModelRunner.load(path, self._config), Codec.load(path, self._vocabularies)

    def _read_adapter(self, path: str) -> Read:
        weights = read_adapter(path, dtype=self._config.dtype, device=self._config.device)
        return weights, Codec.load(path, self._vocabularies)


def failed(load: Load, exc: Exception) -> HeliuError:
    """What those are told who wait for it."""
    if isinstance(exc, HeliuError):
        return exc
    message = f"{load.kind} {load.id!r} cannot be loaded: {type(exc).__name__}: {exc}"
    return HeliuError(message, code="model_unreadable")
