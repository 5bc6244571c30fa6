"""Where benchmarks run: private servers set as `heliu up` sets them, and the platform's real processes on them.

Everything starts when it is first asked for and has ended when the block has. Knows no benchmark.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import redis

from deploy import embedded
from shared.artifacts import ArtifactStore
from shared.child import Child
from shared.contracts.inference import ModelRef
from shared.queue import Publisher
from shared.telemetry import Tracing
from tests import servers
from tests.bench.memory import Memory
from tests.harness import ROOT, Harness, Process

MODEL = "bench-base"
READY_S = 240.0  # the machine may be busy, and importing torch takes long then
WORKERS = ("monitoring", "data_governance", "training", "inference")
# What tests make short or narrow, as the platform has it by default.
AS_BY_DEFAULT = {"HELIU_LEASE_SECONDS": "60", "HELIU_HEARTBEAT_SECONDS": "15", "HELIU_THREADS": "0"}
ADD_MODEL = "INSERT INTO training.model (tenant_id, id, kind, artifact) VALUES (%s, %s, 'base', %s)"


@dataclass(frozen=True)
class Platform:
    """The running platform: all services, one process each, spans going to the built-in receiver."""

    processes: dict[str, Process]
    client: httpx.Client
    model: ModelRef


class BareEngine:
    """The engine in a process of its own, asked through frames: what the platform is held against."""

    def __init__(self, model: Path, slots: int, kv_tokens: int) -> None:
        self._child = Child("tests.bench.bare_engine")
        self._heard = self._child.frames(poll_s=1.0)
        self.ask({"model": str(model), "slots": slots, "kv_tokens": kv_tokens})

    def ask(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Send a frame and wait for the answer to it."""
        self._child.send(frame)
        for answer in self._heard:
            if answer is not None:
                return answer
        raise RuntimeError(f"the bare engine ended: {self._child.how_it_ended()}")

    def close(self) -> None:
        self._child.close()


class Place:
    """One run's servers, and what was started on them so far."""

    def __init__(self, stack: ExitStack, *, quick: bool) -> None:
        self._stack = stack
        self.quick = quick
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heliu-bench-")))
        self.memory = Memory()

    def size(self, full: int, quick: int) -> int:
        """How much to measure; the quick form proves that all of it runs, and its figures mean nothing."""
        return quick if self.quick else full

    @cached_property
    def harness(self) -> Harness:
        postgres = self._stack.enter_context(servers.postgres_server(fast=False))
        valkey = self._stack.enter_context(servers.valkey_server())
        otlp = str(embedded.free_port())
        harness = Harness(
            postgres.url,
            valkey.url,
            self.folder,
            **AS_BY_DEFAULT,
            HELIU_OTLP_PORT=otlp,
            HELIU_OTLP_ENDPOINT=f"http://127.0.0.1:{otlp}",
            HELIU_OTLP_TOKEN="the-token-of-this-benchmark",
            HELIU_GATEWAY_PORT=str(embedded.free_port()),
        )
        self._stack.callback(harness.close)
        self.memory.servers = {"postgres": postgres.pid, "valkey": valkey.pid}
        return harness

    @property
    def redis_url(self) -> str:
        return self.harness.settings.redis_url

    @cached_property
    def redis(self) -> redis.Redis:
        client = redis.Redis.from_url(self.redis_url)
        self._stack.callback(client.close)
        return client

    @cached_property
    def publisher(self) -> Publisher:
        publisher = Publisher(self.redis_url, Tracing("bench"))
        self._stack.callback(publisher.close)
        return publisher

    @contextmanager
    def running(
        self, service: str, index: int = 0, *, module: str | None = None, **settings: str
    ) -> Iterator[Process]:
        """A process that ends with the block; with the `index` of another it would be taken for that one."""
        process = self.harness.start(service, index, wait=False, module=module, **settings)
        try:
            process.wait_ready(READY_S)
            yield process
        finally:
            process.stop()

    @cached_property
    def model_folder(self) -> Path:
        folder = self.folder / "model"
        layers = str(self.size(8, 2))
        # In a process of its own: this one stays without torch.
        subprocess.run(
            [sys.executable, "-m", "tests.bench.make_model", str(folder), layers],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )
        return folder

    @cached_property
    def bare_engine(self) -> BareEngine:
        settings = self.harness.settings
        engine = BareEngine(self.model_folder, settings.engine_slots, settings.engine_kv_tokens)
        self._stack.callback(engine.close)
        return engine

    @cached_property
    def platform(self) -> Platform:
        """The whole platform, ready, with the model in its engine."""
        harness = self.harness
        processes = {name: harness.start(name, wait=False) for name in ("gateway", "dispatcher", *WORKERS)}
        artifact = ArtifactStore(harness.settings.artifact_folder).put_tree(self.model_folder)
        with harness.db.transaction(harness.tenant) as connection:
            connection.execute(ADD_MODEL, (harness.tenant, MODEL, artifact))
        for process in processes.values():
            process.wait_ready(READY_S)
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{harness.settings.gateway_port}",
            headers={"Authorization": f"Bearer {harness.key()}"},
            timeout=READY_S,
        )
        self._stack.callback(client.close)
        self.memory.services = {name: process.pid for name, process in processes.items()}
        self._warm(client)
        return Platform(processes, client, ModelRef(name=MODEL, base_artifact=artifact))

    def _warm(self, client: httpx.Client) -> None:
        """Look at the idle memory once all have settled, then load the model by a first chat."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        self.memory.wait_for_engine(READY_S)
        self.memory.sample("idle")
        answer = client.post("/v1/chat/completions", json=body)
        answer.raise_for_status()


@contextmanager
def open_place(*, quick: bool) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(stack, quick=quick)
