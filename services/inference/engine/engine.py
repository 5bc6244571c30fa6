"""The engine: requests in, events out. It runs from a plain script and knows no queue, no HTTP and no SQL.

    engine = Engine(EngineConfig(max_slots=16, kv_tokens=16_384))
    engine.add(Request(id="1", base=ModelRef("qwen", "/models/qwen"), prompt="Hello", sampling=Sampling(...)))
    while engine.has_work:
        for event in engine.step():      # TokenDelta, Finished, Failed, Loaded
            ...
        engine.wait()                    # returns at once unless only a load is under way

`add` raises only what needs no model (a doubled id, draining); everything later is a Failed event of that request
alone. Bases and adapters are read in a thread of the engine while the others go on, and the least recently used
idle ones make room. All methods belong to one thread; `generate` runs a list of requests to their ends.
"""

from __future__ import annotations

import heapq
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from services.inference.engine.adapter_folder import AdapterWeights, read_adapter
from services.inference.engine.codec import Codec
from services.inference.engine.embedder import SLICE_TOKENS, Embedder, EncoderStats, Item
from services.inference.engine.generation import Generation, conclude, failure
from services.inference.engine.grammar import Vocabulary
from services.inference.engine.loading import weight_bytes
from services.inference.engine.request import (
    Embedded,
    EngineConfig,
    Event,
    Failed,
    Finished,
    FinishReason,
    Loaded,
    ModelRef,
    Priority,
    Request,
    Scored,
    Timings,
    Usage,
)
from services.inference.engine.runner import ModelRunner
from services.inference.engine.runtime import Runtime
from shared.errors import Conflict, HeliuError, NotFound, Unavailable

log = logging.getLogger(__name__)

# A base serves this many steps before a busy one is made to leave, or two that alternate would never run.
_LEAST_STEPS = 64
# Live requests that are tokenized before one step; a request for vectors may be of two thousand texts.
_LIVE_AT_ONCE = 64


@dataclass(eq=False)
class _Entry:
    """A request that is not over; `generation` once it was tokenized, `runtime` while it is submitted."""

    request: Request
    order: int
    seed: int
    received: float
    received_ns: int
    generation: Generation | None = None
    runtime: Runtime | None = None


class _Line(NamedTuple):
    """Requests that wait for the same base and adapter; live lines sort first."""

    batch: bool
    base: str
    adapter: str


@dataclass(frozen=True)
class _Load:
    kind: str
    base: str
    id: str
    started: float


@dataclass(frozen=True)
class ModelStats:
    base_id: str
    running: int
    waiting_live: int
    waiting_batch: int
    blocks_free: int
    blocks_total: int
    bytes: int
    adapters: list[str]
    steps: int
    prompt_tokens: int
    answer_tokens: int
    preemptions: int


@dataclass(frozen=True)
class Stats:
    """A snapshot; `parked` requests wait for a base or an adapter."""

    requests: int
    parked: int
    loading: list[str]
    draining: bool
    models: list[ModelStats]
    encoders: list[EncoderStats]


class Engine:
    """Continuous batching over any number of bases and adapters. See the module's text."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_wake: Callable[[], None] | None = None,
    ) -> None:
        """`on_wake` is called from a thread of the engine when a load ends, so that a sleeper may step."""
        self._config = config
        self._clock = clock
        self._on_wake = on_wake
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._entries: dict[str, _Entry] = {}
        self._parked: OrderedDict[_Line, deque[_Entry]] = OrderedDict()
        self._deadlines: list[tuple[float, int, str]] = []
        self._runtimes: dict[str, Runtime] = {}
        self._closing: set[str] = set()
        self._loads: dict[Future[tuple[ModelRunner | AdapterWeights, Codec]], _Load] = {}
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="engine-loader")
        self._vocabularies: dict[str, Vocabulary] = {}
        self._embedder = Embedder(
            config,
            clock,
            self._loader,
            beside=self._base_bytes,
            make_room=self._release,
            on_wake=on_wake,
        )
        self._outbox: list[Event] = []
        self._orders = 0
        self._draining = False

    @property
    def config(self) -> EngineConfig:
        return self._config

    @property
    def has_work(self) -> bool:
        return bool(self._entries or self._loads or self._outbox or self._embedder or self._embedder.loads)

    @property
    def runnable(self) -> bool:
        """A step would give something now, without waiting for a load."""
        computes = any(not runtime.idle for runtime in self._runtimes.values())
        return bool(self._outbox) or computes or self._embedder.runnable

    @property
    def drained(self) -> bool:
        return self._draining and not (self._entries or self._embedder or self._outbox)

    def add(self, request: Request) -> None:
        """Take a request. Raises Conflict (the id is in use) or Unavailable (draining)."""
        if self._draining:
            raise Unavailable("the engine is draining and takes no more requests", code="draining")
        if request.id in self._entries or request.id in self._embedder:
            raise Conflict(f"a request {request.id!r} is still running", param="id")
        seed = request.sampling.seed
        received = self._clock()
        self._orders += 1
        if request.deadline_s is not None:
            heapq.heappush(self._deadlines, (received + request.deadline_s, self._orders, request.id))
        if request.scores is not None or (request.vector is not None and request.vector.encoder):
            self._embedder.add(Item(request, self._orders, received, time.time_ns()))
            return
        entry = _Entry(
            request,
            self._orders,
            random.getrandbits(63) if seed is None else seed,
            received,
            time.time_ns(),
        )
        self._entries[request.id] = entry
        self._park(entry)

    def cancel(self, request_id: str) -> bool:
        """End a request now; its Finished event (`cancelled`) comes with the next step. False if it is over."""
        entry = self._entries.get(request_id)
        if entry is not None:
            self._cut(entry, FinishReason.CANCELLED)
        elif request_id in self._embedder:
            self._outbox.extend(self._embedder.cut(request_id, FinishReason.CANCELLED))
        else:
            return False
        return True

    def drain(self) -> None:
        """Take no more requests; those that are in are finished."""
        self._draining = True

    def step(self) -> list[Event]:
        """Advance everything by one forward pass of each base and a slice of one encoder; never waits for a load."""
        self._collect_loads()
        self._expire()
        self._advance_parked()
        computed: list[Event] = []
        for runtime in list(self._runtimes.values()):
            if not runtime.idle:
                computed.extend(runtime.step())
        for event in computed:
            if isinstance(event, (Finished, Embedded, Scored, Failed)):
                del self._entries[event.request_id]
        live = any(self._serves_live(runtime) for runtime in self._runtimes.values())
        computed.extend(self._embedder.step(self._config.live_step_tokens if live else SLICE_TOKENS))
        self._finish_closing()
        events, self._outbox = self._outbox + computed, []
        return events

    def wait(self, timeout: float | None = None) -> None:
        """Sleep until a load ends, if nothing else is to be done; else return at once."""
        loads: list[Future[Any]] = [*self._loads, *self._embedder.loads]
        if loads and not self.runnable:
            wait(loads, timeout=timeout, return_when=FIRST_COMPLETED)

    def generate(self, requests: Iterable[Request]) -> list[Finished | Embedded | Scored | Failed]:
        """Run requests to their ends; the results are in the requests' order."""
        ids = []
        for request in requests:
            self.add(request)
            ids.append(request.id)
        ends: dict[str, Finished | Embedded | Scored | Failed] = {}
        while len(ends) < len(ids):
            for event in self.step():
                if isinstance(event, (Finished, Embedded, Scored, Failed)):
                    ends[event.request_id] = event
            self.wait()
        return [ends[request_id] for request_id in ids]

    def unload_base(self, base_id: str) -> None:
        """Let a base or an encoder go: now if idle, else when its running rows have ended. Raises NotFound."""
        if base_id not in self._runtimes:
            self._embedder.unload(base_id)
            return
        self._close(base_id)
        self._finish_closing()

    def unload_adapter(self, adapter_id: str) -> None:
        """Let an adapter go. Raises NotFound, or Conflict while requests use it."""
        holders = [runtime for runtime in self._runtimes.values() if adapter_id in runtime.adapters]
        if not holders:
            raise NotFound(f"adapter {adapter_id!r} is not loaded", param="adapter_id")
        if any(runtime.adapters.pinned(adapter_id) for runtime in holders):
            raise Conflict(f"adapter {adapter_id!r} is in use", param="adapter_id", retryable=True)
        for runtime in holders:
            runtime.remove_adapter(adapter_id)

    def stats(self) -> Stats:
        return Stats(
            requests=len(self._entries) + len(self._embedder),
            parked=sum(len(line) for line in self._parked.values()),
            loading=[
                *(load.id for load in self._loads.values()),
                *(line.ref.id for line, _ in self._embedder.loads.values()),
            ],
            draining=self._draining,
            models=[
                ModelStats(
                    base_id=base_id,
                    running=len(runtime.scheduler.running),
                    waiting_live=runtime.scheduler.waiting(Priority.LIVE),
                    waiting_batch=runtime.scheduler.waiting(Priority.BATCH),
                    blocks_free=runtime.scheduler.allocator.free,
                    blocks_total=runtime.scheduler.allocator.total,
                    bytes=runtime.bytes(),
                    adapters=runtime.adapters.names(),
                    steps=runtime.steps,
                    prompt_tokens=runtime.prompt_tokens,
                    answer_tokens=runtime.answer_tokens,
                    preemptions=runtime.preemptions,
                )
                for base_id, runtime in self._runtimes.items()
            ],
            encoders=self._embedder.stats(),
        )

    def close(self) -> None:
        """Let the loader's thread end; a load under way is finished first."""
        self._loader.shutdown(cancel_futures=True)

    # --- waiting for bases and adapters

    def _park(self, entry: _Entry) -> None:
        request = entry.request
        adapter = request.adapter.id if request.adapter is not None else ""
        line = _Line(request.priority is Priority.BATCH, request.base.id, adapter)
        self._parked.setdefault(line, deque()).append(entry)

    def _advance_parked(self) -> None:
        """Submit what can be served, then ask for the bases and adapters that the rest needs; live first."""
        lines = sorted(self._parked, key=lambda line: line.batch)
        # In this order, or an adapter just loaded could be evicted for another one before its first use.
        for line in lines:
            self._submit_line(line)
        for line in lines:
            if line in self._parked:
                self._ask_for(line, self._parked[line][0].request)

    def _submit_line(self, line: _Line) -> None:
        runtime = self._runtimes.get(line.base)
        if runtime is None or line.base in self._closing:
            return
        if line.adapter and line.adapter not in runtime.adapters:
            return
        entries = self._parked[line]
        # Tokenizing thousands of rows at once would hold up the step.
        most = self._config.max_slots if line.batch else max(self._config.max_slots, _LIVE_AT_ONCE)
        for _ in range(min(len(entries), most)):
            self._submit(entries.popleft(), runtime)
        if not entries:
            del self._parked[line]

    def _ask_for(self, line: _Line, request: Request) -> None:
        runtime = self._runtimes.get(line.base)
        if runtime is None:
            self._want_base(request.base, batch=line.batch)
        elif request.adapter is not None and line.adapter not in runtime.adapters:
            if line.base in self._closing or self._loading(line.base, line.adapter):
                return
            # When all that are held are in use, a live request still gets in; batch rows wait.
            if runtime.adapters.make_room() or not line.batch:
                self._load("adapter", line.base, request.adapter, self._read_adapter)

    def _submit(self, entry: _Entry, runtime: Runtime) -> None:
        entry.runtime = runtime
        if entry.generation is not None:
            runtime.resume(entry.generation)
            return
        try:
            entry.generation = runtime.submit(
                entry.request,
                order=entry.order,
                seed=entry.seed,
                received=entry.received,
                received_ns=entry.received_ns,
            )
        except HeliuError as error:
            self._refuse(entry, error)
        except Exception as exc:  # whatever a tokenizer raises, it is this request's alone
            log.exception("prompt_failed")
            self._refuse(entry, HeliuError(f"the prompt cannot be prepared: {type(exc).__name__}"))

    def _refuse(self, entry: _Entry, error: HeliuError) -> None:
        del self._entries[entry.request.id]
        self._outbox.append(failure(entry.request.id, error))

    def _loading(self, base_id: str, loaded_id: str) -> bool:
        return any(load.base == base_id and load.id == loaded_id for load in self._loads.values())

    def _want_base(self, base: ModelRef, *, batch: bool) -> None:
        if self._loading(base.id, base.id):
            return
        while not self._fits(base):
            if not self._release(bases_only=self._crowded):
                self._ask_room(batch=batch)
                return
        self._load("base", base.id, base, self._read_base)

    @property
    def _crowded(self) -> bool:
        loading = sum(load.kind == "base" for load in self._loads.values())
        return len(self._runtimes) + loading >= self._config.max_models

    def _fits(self, base: ModelRef) -> bool:
        held = self._base_bytes() + self._embedder.bytes()
        limit = self._config.max_model_bytes
        return not self._crowded and (not limit or not held or held + weight_bytes(base.path) <= limit)

    def _base_bytes(self) -> int:
        return sum(runtime.bytes() for runtime in self._runtimes.values())

    def _release(self, *, bases_only: bool = False) -> bool:
        """Let the least recently used idle model go; False when none is idle."""
        idle = {name: runtime.last_used for name, runtime in self._runtimes.items() if runtime.idle}
        oldest = min(idle, key=lambda name: idle[name], default=None)
        since = None if bases_only else self._embedder.idle_since()
        if since is not None and (oldest is None or since < idle[oldest]):
            return self._embedder.evict_idle()
        if oldest is not None:
            self._evict(oldest)
        return oldest is not None

    def _ask_room(self, *, batch: bool) -> None:
        """Make the longest served busy base leave, unless one leaves already; batch never drives out live."""
        if self._closing or any(load.kind == "base" for load in self._loads.values()):
            return
        candidates = [
            name
            for name, runtime in self._runtimes.items()
            if runtime.steps >= _LEAST_STEPS and not (batch and self._serves_live(runtime))
        ]
        if not candidates:
            return
        victim = max(candidates, key=lambda name: self._runtimes[name].steps)
        self._close(victim)
        if not batch:
            self._runtimes[victim].scheduler.preempt_batch()

    def _serves_live(self, runtime: Runtime) -> bool:
        scheduler = runtime.scheduler
        live = any(sequence.priority is Priority.LIVE for sequence in scheduler.running)
        return live or scheduler.waiting(Priority.LIVE) > 0

    def _close(self, base_id: str) -> None:
        self._closing.add(base_id)
        self._runtimes[base_id].scheduler.admitting = frozenset()

    def _finish_closing(self) -> None:
        for base_id in list(self._closing):
            if not self._runtimes[base_id].scheduler.running:
                self._evict(base_id)

    def _evict(self, base_id: str) -> None:
        """Drop a base; what waits in it goes back to the line, with the tokens that it has."""
        runtime = self._runtimes.pop(base_id)
        self._closing.discard(base_id)
        for generation in runtime.withdraw_all():
            entry = self._entries[generation.request.id]
            entry.runtime = None
            self._park(entry)

    # --- loads

    def _load(
        self,
        kind: str,
        base_id: str,
        ref: ModelRef,
        read: Callable[[str], tuple[ModelRunner | AdapterWeights, Codec]],
    ) -> None:
        future = self._loader.submit(read, ref.path)
        self._loads[future] = _Load(kind, base_id, ref.id, self._clock())
        if self._on_wake is not None:
            wake = self._on_wake
            future.add_done_callback(lambda _: wake())

    def _read_base(self, path: str) -> tuple[ModelRunner, Codec]:
        return ModelRunner.load(path, self._config), Codec.load(path, self._vocabularies)

    def _read_adapter(self, path: str) -> tuple[AdapterWeights, Codec]:
        weights = read_adapter(path, dtype=self._config.dtype, device=self._config.device)
        return weights, Codec.load(path, self._vocabularies)

    def _collect_loads(self) -> None:
        for future in [future for future in self._loads if future.done()]:
            load = self._loads.pop(future)
            try:
                self._install(load, *future.result())
            except HeliuError as error:
                self._fail_waiting(load, error)
            except Exception as exc:  # noqa: BLE001 - whatever a broken folder makes a library raise
                message = f"{load.kind} {load.id!r} cannot be loaded: {type(exc).__name__}: {exc}"
                self._fail_waiting(load, HeliuError(message, code="model_unreadable"))
            else:
                self._outbox.append(Loaded(load.kind, load.id, self._clock() - load.started))

    def _install(self, load: _Load, read: ModelRunner | AdapterWeights, codec: Codec) -> None:
        if isinstance(read, ModelRunner):
            self._runtimes[load.id] = Runtime(read, codec, self._config, self._clock)
        elif load.base in self._runtimes:
            self._runtimes[load.base].install_adapter(load.id, read, codec)

    def _fail_waiting(self, load: _Load, error: HeliuError) -> None:
        for line in list(self._parked):
            if line.base == load.base and (load.kind == "base" or line.adapter == load.id):
                for entry in self._parked.pop(line):
                    self._refuse(entry, error)

    # --- ends that come from outside

    def _expire(self) -> None:
        now = self._clock()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, order, request_id = heapq.heappop(self._deadlines)
            entry = self._entries.get(request_id)
            if entry is not None and entry.order == order:
                self._cut(entry, FinishReason.DEADLINE)
            elif self._embedder.order_of(request_id) == order:
                self._outbox.extend(self._embedder.cut(request_id, FinishReason.DEADLINE))

    def _cut(self, entry: _Entry, reason: FinishReason) -> None:
        del self._entries[entry.request.id]
        if entry.runtime is not None and entry.generation is not None:
            self._outbox.extend(entry.runtime.end(entry.generation, reason))
            return
        for line in list(self._parked):
            if entry in self._parked[line]:
                self._parked[line].remove(entry)
                if not self._parked[line]:
                    del self._parked[line]
        if entry.generation is not None:
            self._outbox.extend(conclude(entry.generation, reason, self._clock()))
        else:
            waited = Timings(self._clock() - entry.received, 0.0, 0.0, None)
            self._outbox.append(Finished(entry.request.id, "", (), reason, Usage(0, 0), waited, ()))
