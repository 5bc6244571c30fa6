"""The whole platform with a governed dataset, a small base and an adapter on it, as the end-to-end tests see it.

Knows the gateway's HTTP and the processes that it may kill; nothing of what is inside them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import psutil
from openai import OpenAI

from deploy.embedded import free_port
from tests.harness import ROOT, Harness, Process, platform

SAMPLES = ROOT / "deploy" / "samples" / "service_dialogues.jsonl"
SAMPLE_LINES = 240
# Long enough for a machine on which others work too.
PATIENCE_S = 240.0
# Live requests of the tests at once.
MOST_LIVE = 200
ENDED = ("succeeded", "failed", "cancelled", "dead", "expired")
WORKERS = ("dispatcher", "monitoring", "data_governance", "training", "inference")

# Learning rates that teach a model of this size something in so few steps.
BASE = {
    "vocab_size": 512,
    "hidden_size": 32,
    "layers": 2,
    "heads": 2,
    "context_length": 256,
    "batch_size": 8,
    "max_steps": 15,
    "log_every": 5,
    "learning_rate": 0.02,
}
# Every step is told, so that two curves can be laid over each other step by step.
TUNING = {
    "lora_r": 4,
    "batch_size": 8,
    "max_steps": 64,
    "log_every": 1,
    "checkpoint_every": 8,
    "learning_rate": 0.01,
}
SEED = 7


@dataclass
class Stage:
    """`base` and `tuned` are models, `version` the dataset that both learned from, `tuning` the job behind `tuned`.

    `mirror` is `base` once more, as an upstream: this platform at its own door.
    """

    harness: Harness
    url: str
    key: str
    running: dict[str, Process] = field(default_factory=dict)
    version: str = ""
    base: str = "base"
    tuned: str = ""
    mirror: str = "mirror"
    tuning: str = ""
    traces: dict[str, str] = field(default_factory=dict)

    def http(self, key: str = "") -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {key or self.key}"}, timeout=60
        )

    def openai(self, key: str = "", **options: Any) -> OpenAI:
        return OpenAI(
            base_url=f"{self.url}/v1", api_key=key or self.key, **{"timeout": PATIENCE_S, **options}
        )

    def get(self, path: str, key: str = "", **query: Any) -> Any:
        """The JSON of an answer that must be good."""
        with self.http(key) as http:
            answer = http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: dict[str, Any] | None = None, key: str = "") -> Any:
        with self.http(key) as http:
            answer = http.post(path, json=body or {})
        assert answer.status_code == 200, f"{path}: {answer.text}"
        return answer.json()

    def new_tenant(self, name: str, **limits: int) -> str:
        """A key of a tenant that is made where there is none yet."""
        operator = self.harness.key("operator")
        with self.http(operator) as http:
            assert http.post("/v1/tenants", json={"name": name}).status_code in (200, 409)
        return str(self.post("/v1/keys", {"name": name, "tenant": name, **limits}, operator)["key"])

    def upload(self, name: str, content: bytes, purpose: str) -> str:
        with self.http() as http:
            answer = http.post("/v1/files", files={"file": (name, content)}, data={"purpose": purpose})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def ended(self, job_id: str) -> dict[str, Any]:
        """The job once it has ended, however it did."""
        return self.until(job_id, lambda job: job["status"] in ENDED)

    def until(self, job_id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The job once `holds` does. Fails for a job that ended and will never hold it."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds(job := self.get(f"/v1/jobs/{job_id}")):
            assert job["status"] not in ENDED, f"{job_id} ended without it: {job['status']} {job['error']}"
            assert time.monotonic() < deadline, f"{job_id} is still {job['status']}: {job['progress']}"
            time.sleep(0.05)
        return dict(job)

    def succeeded(self, job_id: str) -> dict[str, Any]:
        job = self.ended(job_id)
        assert job["status"] == "succeeded", f"{job_id}: {job['error']}\n{self.harness.logs()}"
        return job

    def add_model(self, folder: Path, name: str) -> None:
        """Bring in a model from a folder, by the command line."""
        ran = subprocess.run(
            [sys.executable, "-m", "services.cli.main", "models", "add", str(folder), "--name", name],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("HELIU_")},
                "HELIU_GATEWAY_URL": self.url,
                "HELIU_API_KEY": self.key,
                "PYTHONPATH": str(ROOT),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert ran.returncode == 0, ran.stderr

    def govern(self, name: str, content: bytes, recipe: dict[str, Any] | None = None) -> dict[str, Any]:
        """The ended job that made a version of `content`."""
        file = self.upload(f"{name}.jsonl", content, "user_data")
        body = {"name": name, "file_id": file, **({"recipe": recipe} if recipe else {})}
        job = self.post("/v1/datasets", body)
        self.traces["data"] = job["trace_id"]
        return self.succeeded(job["id"])

    def tune(self, **changes: Any) -> dict[str, Any]:
        """Start a fine-tuning job like the first one; `changes` go to its hyperparameters."""
        return dict(
            self.post(
                "/v1/fine_tuning/jobs",
                {
                    "model": self.base,
                    "training_file": self.version,
                    "suffix": "service",
                    "seed": SEED,
                    "method": {
                        "type": "supervised",
                        "supervised": {"hyperparameters": {**TUNING, **changes}},
                    },
                },
            )
        )

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """All of them, oldest first."""
        found: list[dict[str, Any]] = []
        while True:
            after = {"after": found[-1]["id"]} if found else {}
            page = self.get(f"/v1/jobs/{job_id}/events", limit=100, **after)
            found += page["data"]
            if not page["has_more"]:
                return found

    def last_step(self, job_id: str) -> int:
        """The newest step that was told."""
        page = self.get(f"/v1/fine_tuning/jobs/{job_id}/events", limit=10)
        return max((e["data"]["step"] for e in page["data"] if e["type"] == "metrics"), default=0)

    def curve(self, job_id: str) -> dict[int, dict[str, float]]:
        """What each step told of itself, without its speed. Fails when a step that ran twice told two things."""
        told: dict[int, dict[str, float]] = {}
        for event in self.events(job_id):
            if event["type"] == "metrics":
                data = {k: v for k, v in event["data"].items() if k not in ("step", "tokens_per_second")}
                step = told.setdefault(event["data"]["step"], data)
                both = {name for name in data if name in step}
                assert {n: step[n] for n in both} == {n: data[n] for n in both}, f"step {event['data']}"
                step |= data
        return told

    def child_of(self, service: str) -> psutil.Process:
        """The trainer or engine of the worker."""
        worker = psutil.Process(self.running[service].pid)
        (child,) = [p for p in worker.children() if f"services.{service}.child" in p.cmdline()]
        return child

    def restart(self, service: str) -> None:
        """A new worker in the place of one that is dead; ready when this returns."""
        self.running[service] = self.harness.start(service)

    def batch_file(self, rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
        """Upload rows of (custom_id, body)."""
        lines = [
            json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})
            for name, body in rows
        ]
        return self.upload("batch.jsonl", "\n".join(lines).encode(), "batch")

    def usage_rows(self, prefix: str) -> list[dict[str, Any]]:
        """The ledger's rows whose request id starts so."""
        with self.harness.db.core() as connection:
            return connection.execute(
                "SELECT * FROM gateway.usage WHERE starts_with(request_id, %s)", (prefix,)
            ).fetchall()

    def spans(self, traces: Sequence[str], until: Callable[[list[dict[str, Any]]], bool]) -> list[Any]:
        """The spans of these traces once `until` holds, or as they are when patience ends."""
        deadline = time.monotonic() + 60
        while True:
            found: list[dict[str, Any]] = []
            with self.http() as http:
                for trace in traces:
                    answer = http.get(f"/v1/traces/{trace}")
                    found += answer.json()["spans"] if answer.status_code == 200 else []
            if until(found) or time.monotonic() > deadline:
                return found
            time.sleep(0.5)


def sample(lines: int = SAMPLE_LINES) -> bytes:
    with SAMPLES.open("rb") as handle:
        return b"".join(islice(handle, lines))


@contextmanager
def open_stage(database_url: str, redis_url: str) -> Iterator[Stage]:
    """Start all processes, then make dataset, base and adapter; nothing runs when the block has ended."""
    port = str(free_port())
    settings = {
        "HELIU_OTLP_PORT": port,
        "HELIU_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "HELIU_OTLP_TOKEN": "the-token-of-these-tests",
        "HELIU_WEBHOOK_ALLOW_PRIVATE": "on",
        "HELIU_SHARD_ROWS": "16",
        "HELIU_UPSTREAM_HOSTS": "127.0.0.1",
        "HELIU_SOURCE_FOLDERS": str(SAMPLES.parent),
        "HELIU_LIVE_DEADLINE_SECONDS": str(PATIENCE_S),
        # Who is killed here is started again under its name and gives its leases back at once. Short ones would
        # only add a crash where a busy machine keeps a heartbeat waiting.
        "HELIU_LEASE_SECONDS": "120",
    }
    with platform(database_url, redis_url, **settings) as harness:
        # Before the gateway has seen a key: it remembers a tenant's caps for a few seconds.
        with harness.db.core() as connection:
            connection.execute("UPDATE core.tenant SET max_live = %s WHERE name = 'default'", (MOST_LIVE,))
        running = {name: harness.start(name, wait=False) for name in WORKERS}
        url = harness.start_gateway()
        for process in running.values():
            process.wait_ready(PATIENCE_S)
        stage = Stage(harness, url, harness.key(), running)
        _prepare(stage)
        yield stage


def _prepare(stage: Stage) -> None:
    stage.version = stage.govern("service", sample())["result"]["version_id"]
    job = stage.post(
        "/v1/training/jobs",
        {
            "type": "pretrain",
            "name": stage.base,
            "training_file": stage.version,
            "seed": SEED,
            "hyperparameters": BASE,
        },
    )
    stage.traces["pretraining"] = job["trace_id"]
    stage.succeeded(job["id"])
    tuning = stage.tune()
    stage.tuning, stage.traces["fine_tuning"] = tuning["id"], tuning["trace_id"]
    stage.tuned = stage.succeeded(tuning["id"])["result"]["fine_tuned_model"]
    mirror = {"name": stage.mirror, "url": f"{stage.url}/v1", "model": stage.base, "api_key": stage.key}
    mirror["endpoints"] = ["chat", "completions", "embeddings"]
    stage.post("/v1/upstreams", mirror, stage.harness.key("operator"))
