"""Makes vectors with sentence encoders, and scores with heads, in slices that fit between the steps of generation.

Encoders are read on demand in the engine's loading thread, and the least recently used idle ones make room. What
waits is taken live before batch and tenant by tenant, sorted by length in rounds, and computed a slice a step.
Knows no generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from services.inference.engine.embedder_item import (
    Item,
    cause,
    failed,
    finished,
    scored,
)
from services.inference.engine.embedder_line import Line
from services.inference.engine.encoder import Encoder
from services.inference.engine.events import (
    Embedded,
    Event,
    Failed,
    Finished,
    FinishReason,
    Loaded,
    Scored,
    Timings,
    Usage,
)
from services.inference.engine.head import Head
from services.inference.engine.loading import weight_bytes
from services.inference.engine.request import EngineConfig, ModelRef, Priority, Request
from shared.errors import HeliuError, NotFound

# Tokens of a slice, padding included, where no live answer grows beside it: more of them are not faster.
SLICE_TOKENS = 512
# A busy encoder serves this many slices before it leaves for another, or two that alternate would never run.
LEAST_SLICES = 16


@dataclass(frozen=True)
class EncoderStats:
    encoder_id: str
    waiting: int
    bytes: int
    slices: int


class Embedder:
    """All sentence encoders of one engine. Not thread-safe: the engine's thread owns it.

    `make_room` lets the least recently used idle model go, base or encoder, and says whether there was one; `beside`
    is what the bases hold, in bytes.
    """

    def __init__(
        self,
        config: EngineConfig,
        clock: Callable[[], float],
        loader: ThreadPoolExecutor,
        *,
        beside: Callable[[], int],
        make_room: Callable[[], bool],
        on_wake: Callable[[], None] | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._loader = loader
        self._beside = beside
        self._make_room = make_room
        self._on_wake = on_wake
        self._lines: dict[tuple[str, type[Encoder]], Line] = {}
        self._items: dict[str, Item] = {}
        self.loads: dict[Future[Encoder], tuple[Line, float]] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._items

    def __len__(self) -> int:
        """Texts that wait."""
        return len(self._items)

    @property
    def runnable(self) -> bool:
        """A slice could be computed now."""
        return any(line.encoder is not None and not line.idle for line in self._lines.values())

    def add(self, item: Item) -> None:
        line = self._line_of(item.request)
        line.waiting[item.request.priority].push(item)
        self._items[item.request.id] = item

    def cut(self, request_id: str, reason: FinishReason) -> list[Event]:
        """Forget a text that waits; says so as an event."""
        item = self._items.pop(request_id)
        line = self._line_of(item.request)
        if not line.waiting[item.request.priority].remove(item):
            line.rounds[item.request.priority].remove(item)
        loading = any(line is other for other, _ in self.loads.values())
        if line.encoder is None and line.idle and not loading:
            self._forget(line)
        waited = Timings(self._clock() - item.received, 0.0, 0.0, None)
        return [Finished(request_id, "", (), reason, Usage(0, 0), waited, ())]

    def order_of(self, request_id: str) -> int | None:
        item = self._items.get(request_id)
        return None if item is None else item.order

    def step(self, tokens: int = SLICE_TOKENS) -> list[Event]:
        """Take in what was loaded, ask for what is needed, and compute one slice of about `tokens`."""
        events: list[Event] = []
        self._collect(events)
        for priority in Priority:
            for line in list(self._lines.values()):
                if line.encoder is None and line.wants(priority):
                    self._want(line)
        self._slice(tokens, events)
        for event in events:
            if isinstance(event, (Embedded, Scored, Failed)):
                self._items.pop(event.request_id, None)
        return events

    def bytes(self) -> int:
        return sum(line.encoder.bytes() for line in self._lines.values() if line.encoder is not None)

    def stats(self) -> list[EncoderStats]:
        return [
            EncoderStats(
                line.ref.id, sum(len(line.waiting[p]) for p in Priority), line.encoder.bytes(), line.slices
            )
            for line in self._lines.values()
            if line.encoder is not None
        ]

    # --- room

    def idle_since(self) -> float | None:
        """When the least recently used idle encoder was last used; None when none is idle."""
        return min((line.last_used for line in self._held() if line.idle), default=None)

    def evict_idle(self) -> bool:
        """Let the least recently used idle encoder go; False when none is idle."""
        idle = [line for line in self._held() if line.idle]
        if idle:
            self._evict(min(idle, key=lambda line: line.last_used))
        return bool(idle)

    def unload(self, encoder_id: str) -> None:
        """Let an encoder go; it is read again for what waits for it. Raises NotFound."""
        held = [line for line in self._held() if line.ref.id == encoder_id]
        if not held:
            raise NotFound(f"encoder {encoder_id!r} is not loaded", param="base_id")
        for line in held:
            self._evict(line)

    def _line_of(self, request: Request) -> Line:
        """The line of a request's model, which is made where there is none: a folder may be read as an encoder and as
        a head."""
        reader = Head if request.scores is not None else Encoder
        return self._lines.setdefault((request.base.id, reader), Line(request.base, reader))

    def _forget(self, line: Line) -> None:
        self._lines.pop((line.ref.id, line.reader), None)

    def _held(self) -> Iterator[Line]:
        return (line for line in self._lines.values() if line.encoder is not None)

    def _evict(self, line: Line) -> None:
        line.encoder = None
        if line.idle:
            self._forget(line)

    # --- loads

    def _want(self, line: Line) -> None:
        if any(loading is line for loading, _ in self.loads.values()):
            return
        while sum(1 for _ in self._held()) + len(self.loads) >= self._config.max_encoders:
            if not self.evict_idle() and not self._evict_busy():
                return
        while not self._fits(line.ref):
            if not self._make_room() and not self._evict_busy():
                return
        future = self._loader.submit(
            line.reader.load, line.ref.path, dtype=self._config.dtype, device=self._config.device
        )
        self.loads[future] = (line, self._clock())
        if self._on_wake is not None:
            wake = self._on_wake
            future.add_done_callback(lambda _: wake())

    def _fits(self, ref: ModelRef) -> bool:
        held = self.bytes() + self._beside()
        limit = self._config.max_model_bytes
        return not limit or not held or held + weight_bytes(ref.path) <= limit

    def _evict_busy(self) -> bool:
        """Let an encoder go that has served for long; what waits for it stays in its line."""
        busy = [line for line in self._held() if line.slices >= LEAST_SLICES]
        if busy and not self.loads:
            self._evict(max(busy, key=lambda line: line.slices))
        return bool(busy) and not self.loads

    def _collect(self, events: list[Event]) -> None:
        for future in [future for future in self.loads if future.done()]:
            line, started = self.loads.pop(future)
            try:
                line.encoder = future.result()
            except HeliuError as error:
                self._fail_line(line, error, events)
            except Exception as exc:  # noqa: BLE001 - whatever a broken folder makes a library raise
                message = f"encoder {line.ref.id!r} cannot be loaded: {type(exc).__name__}: {exc}"
                self._fail_line(line, HeliuError(message, code="model_unreadable"), events)
            else:
                line.last_used, line.slices = self._clock(), 0
                self._lines[line.ref.id, line.reader] = line
                events.append(Loaded("encoder", line.ref.id, line.last_used - started))

    def _fail_line(self, line: Line, error: HeliuError, events: list[Event]) -> None:
        self._forget(line)
        for priority in Priority:
            waiting = [*line.rounds[priority], *line.waiting[priority]]
            events.extend(failed(item, error) for item in waiting)

    # --- slices

    def _slice(self, tokens: int, events: list[Event]) -> None:
        """One slice of the encoder that waits longest for its turn, live before batch."""
        for priority in Priority:
            for line in sorted(self._held(), key=lambda line: line.last_used):
                if not line.wants(priority):
                    continue
                assert line.encoder is not None
                items = line.next_slice(line.encoder, priority, tokens, events)
                line.last_used = self._clock()
                line.slices += 1
                self._compute(line.encoder, items, self._clock(), events)
                return

    def _compute(self, encoder: Encoder, items: list[Item], started: float, events: list[Event]) -> None:
        """A slice that fails is repeated in halves until the text at fault stands alone."""
        if not items:
            return
        try:
            vectors = encoder.encode([item.tokens for item in items], [item.second for item in items])
        except Exception as exc:  # noqa: BLE001 - whatever the model raises, it must not end the others
            if len(items) > 1:
                self._compute(encoder, items[: len(items) // 2], started, events)
                self._compute(encoder, items[len(items) // 2 :], started, events)
            else:
                events.append(failed(items[0], cause(exc)))
            return
        now = self._clock()
        for item, vector in zip(items, vectors, strict=True):
            if isinstance(encoder, Head):
                events.append(scored(item, encoder, vector, started, now))
            else:
                events.append(finished(item, vector, started, now, normalize=encoder.normalizes))
