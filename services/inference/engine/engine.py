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
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

import torch

from services.inference.engine.adapter_folder import AdapterWeights
from services.inference.engine.bases import Bases
from services.inference.engine.codec import Codec
from services.inference.engine.embedder import SLICE_TOKENS, Embedder
from services.inference.engine.embedder_item import Item
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
from services.inference.engine.generation import Generation, conclude, failure
from services.inference.engine.loading import weight_bytes
from services.inference.engine.loads import Load, Loads, failed
from services.inference.engine.parked import Entry, Line, Parked
from services.inference.engine.request import EngineConfig, ModelRef, Request
from services.inference.engine.runner import ModelRunner
from services.inference.engine.runtime import Runtime
from services.inference.engine.stats import ModelStats, Stats
from shared.errors import Conflict, HeliuError, Unavailable

log = logging.getLogger(__name__)

# Live requests that are tokenized before one step; a request for vectors may be of two thousand texts.
_LIVE_AT_ONCE = 64


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
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._entries: dict[str, Entry] = {}
        self._parked = Parked()
        self._deadlines: list[tuple[float, int, str]] = []
        self._bases = Bases(config, self._park_again)
        self._loads = Loads(config, clock, on_wake)
        self._embedder = Embedder(
            config,
            clock,
            self._loads.thread,
            beside=self._bases.bytes,
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
        return bool(self._outbox) or self._bases.busy or self._embedder.runnable

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
        entry = Entry(
            request,
            self._orders,
            random.getrandbits(63) if seed is None else seed,
            received,
            time.time_ns(),
        )
        self._entries[request.id] = entry
        self._parked.park(entry)

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
        for runtime in list(self._bases.runtimes.values()):
            if not runtime.idle:
                computed.extend(runtime.step())
        for event in computed:
            if isinstance(event, (Finished, Embedded, Scored, Failed)):
                del self._entries[event.request_id]
        slice_tokens = self._config.live_step_tokens if self._bases.live else SLICE_TOKENS
        computed.extend(self._embedder.step(slice_tokens))
        self._bases.finish_closing()
        events, self._outbox = self._outbox + computed, []
        return events

    def wait(self, timeout: float | None = None) -> None:
        """Sleep until a load ends, if nothing else is to be done; else return at once."""
        loads: list[Future[Any]] = [*self._loads.futures(), *self._embedder.loads]
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
        if base_id not in self._bases:
            self._embedder.unload(base_id)
            return
        self._bases.close(base_id)
        self._bases.finish_closing()

    def unload_adapter(self, adapter_id: str) -> None:
        """Let an adapter go. Raises NotFound, or Conflict while requests use it."""
        self._bases.remove_adapter(adapter_id)

    def stats(self) -> Stats:
        return Stats(
            requests=len(self._entries) + len(self._embedder),
            parked=len(self._parked),
            loading=[
                *self._loads.names(),
                *(line.ref.id for line, _ in self._embedder.loads.values()),
            ],
            draining=self._draining,
            models=[ModelStats.of(name, runtime) for name, runtime in self._bases.runtimes.items()],
            encoders=self._embedder.stats(),
        )

    def close(self) -> None:
        """Let the loader's thread end; a load under way is finished first."""
        self._loads.close()

    # --- waiting for bases and adapters

    def _park_again(self, generation: Generation) -> None:
        """Its base has left; it goes back to the line, with the tokens that it has."""
        entry = self._entries[generation.request.id]
        entry.runtime = None
        self._parked.park(entry)

    def _advance_parked(self) -> None:
        """Submit what can be served, then ask for the bases and adapters that the rest needs; live first."""
        lines = self._parked.lines()
        # In this order, or an adapter just loaded could be evicted for another one before its first use.
        for line in lines:
            self._submit_line(line)
        for line in lines:
            if line in self._parked:
                self._ask_for(line, self._parked.first(line))

    def _submit_line(self, line: Line) -> None:
        runtime = self._bases.get(line.base)
        if runtime is None or self._bases.closing(line.base):
            return
        if line.adapter and line.adapter not in runtime.adapters:
            return
        # Tokenizing thousands of rows at once would hold up the step.
        most = self._config.max_slots if line.batch else max(self._config.max_slots, _LIVE_AT_ONCE)
        for entry in self._parked.take(line, most):
            self._submit(entry, runtime)

    def _ask_for(self, line: Line, request: Request) -> None:
        runtime = self._bases.get(line.base)
        if runtime is None:
            self._want_base(request.base, batch=line.batch)
        elif request.adapter is not None and line.adapter not in runtime.adapters:
            if self._bases.closing(line.base) or self._loads.under_way(line.base, line.adapter):
                return
            # When all that are held are in use, a live request still gets in; batch rows wait.
            if runtime.adapters.make_room() or not line.batch:
                self._loads.adapter(line.base, request.adapter)

    def _submit(self, entry: Entry, runtime: Runtime) -> None:
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

    def _refuse(self, entry: Entry, error: HeliuError) -> None:
        del self._entries[entry.request.id]
        self._outbox.append(failure(entry.request.id, error))

    def _want_base(self, base: ModelRef, *, batch: bool) -> None:
        if self._loads.under_way(base.id, base.id):
            return
        while not self._fits(base):
            if not self._release(bases_only=self._bases.full(self._loads.bases)):
                if not self._loads.bases:
                    self._bases.ask_room(batch=batch)
                return
        self._loads.base(base)

    def _fits(self, base: ModelRef) -> bool:
        held = self._bases.bytes() + self._embedder.bytes()
        limit = self._config.max_model_bytes
        crowded = self._bases.full(self._loads.bases)
        return not crowded and (not limit or not held or held + weight_bytes(base.path) <= limit)

    def _release(self, *, bases_only: bool = False) -> bool:
        """Let the least recently used idle model go; False when none is idle."""
        oldest = self._bases.oldest_idle()
        since = None if bases_only else self._embedder.idle_since()
        if since is not None and (oldest is None or since < oldest[1]):
            return self._embedder.evict_idle()
        if oldest is not None:
            self._bases.evict(oldest[0])
        return oldest is not None

    # --- loads

    def _collect_loads(self) -> None:
        for load, read in self._loads.ended():
            error = read if isinstance(read, HeliuError) else self._install(load, *read)
            if error is not None:
                self._fail_waiting(load, error)
            else:
                self._outbox.append(Loaded(load.kind, load.id, self._clock() - load.started))

    def _install(self, load: Load, read: ModelRunner | AdapterWeights, codec: Codec) -> HeliuError | None:
        """Serve what was read; else the reason why it cannot be."""
        try:
            if isinstance(read, ModelRunner):
                self._bases.runtimes[load.id] = Runtime(read, codec, self._config, self._clock)
            elif (runtime := self._bases.get(load.base)) is not None:
                runtime.install_adapter(load.id, read, codec)
        except Exception as exc:  # noqa: BLE001 - whatever weights that do not fit make a library raise
            return failed(load, exc)
        return None

    def _fail_waiting(self, load: Load, error: HeliuError) -> None:
        for line in self._parked.lines():
            if line.base == load.base and (load.kind == "base" or line.adapter == load.id):
                for entry in self._parked.take(line):
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

    def _cut(self, entry: Entry, reason: FinishReason) -> None:
        del self._entries[entry.request.id]
        if entry.runtime is not None and entry.generation is not None:
            self._outbox.extend(entry.runtime.end(entry.generation, reason))
            return
        self._parked.remove(entry)
        if entry.generation is not None:
            self._outbox.extend(conclude(entry.generation, reason, self._clock()))
        else:
            waited = Timings(self._clock() - entry.received, 0.0, 0.0, None)
            self._outbox.append(Finished(entry.request.id, "", (), reason, Usage(0, 0), waited, ()))
