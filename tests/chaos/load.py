"""What a fault run asks of the platform: no-op jobs, batches and chats in the background of several tenants, and what
was promised to whom.

A submission that fails is sent again under the same idempotency key, as a client does; once it has returned, the
job is accepted and must end.
"""

from __future__ import annotations

import io
import json
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from shared import job_requests, job_store
from shared.artifacts import ArtifactStore
from shared.bootstrap import create_tenant
from shared.contracts.background import ChatJob
from shared.contracts.batches import Batch
from shared.contracts.core import Noop
from shared.contracts.inference import ChatMessage, Generate, ModelRef
from shared.db import retrying
from shared.errors import Conflict, Unavailable
from shared.jobs import Job, NewJob, new_id
from tests.harness import Harness

TENANTS = 3
MAX_UNFINISHED = 100
BATCH_ROWS = (100, 600)
# Faults come faster than a worker starts, so a job may well be hit more often than a product would allow.
MANY = 1000


@dataclass
class Accepted:
    """What was promised: the jobs by id, the texts of every batch's rows in their order, and of every chat."""

    jobs: dict[str, str] = field(default_factory=dict)
    batches: dict[str, list[str]] = field(default_factory=dict)
    chats: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(len(texts) for texts in self.batches.values())


class Load:
    """A thread that submits until it is told to stop, never more than MAX_UNFINISHED ahead of the workers."""

    def __init__(self, harness: Harness, rng: random.Random, gateway: str | None = None) -> None:
        self.accepted = Accepted()
        self.refused = 0
        self.errors: list[BaseException] = []
        self._harness = harness
        self._rng = rng
        self._client = (
            httpx.Client(base_url=gateway, headers={"Authorization": f"Bearer {harness.key()}"}, timeout=15)
            if gateway
            else None
        )
        self.posted = 0
        self._stop = threading.Event()
        self._owners: dict[str, UUID] = {}
        self._artifacts = ArtifactStore(harness.settings.artifact_folder)
        self._model = ModelRef(name="echo", base_artifact=self._put_model(harness.folder))
        self._tenants = self._make_tenants()
        self._thread = threading.Thread(target=self._work, name="load", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take back no promise, make no more."""
        self._stop.set()
        self._thread.join(180)
        assert not self._thread.is_alive(), "a submission hangs"
        if self._client is not None:
            self._client.close()

    def batch_texts(self, count: int) -> list[str]:
        return [f"row {index} 問 {self._rng.getrandbits(32):08x}" for index in range(count)]

    def submit_batch(self, texts: list[str], *, max_crashes: int = MANY) -> Job:
        """A batch with one row a text."""
        body = "".join(json.dumps(self._line(index, text)) + "\n" for index, text in enumerate(texts))
        artifact, _ = self._artifacts.put(io.BytesIO(body.encode()))
        payload = Batch(
            input_file_id="file-chaos",
            artifact=artifact,
            endpoint="/v1/chat/completions",
            models={"echo": self._model},
        )
        job = self._submit(
            Batch.kind, Batch.queue_for(), payload.dump(), prefix="batch_", max_crashes=max_crashes
        )
        self.accepted.batches[job.id] = texts
        return job

    def submit_chat(self, text: str) -> Job:
        """A chat in the background, before or behind the batches."""
        call = Generate(model=self._model, messages=(ChatMessage(role="user", content=text),))
        payload = ChatJob(endpoint="/v1/chat/completions", call=call, shown="echo")
        job = self._submit(
            ChatJob.kind,
            ChatJob.queue_for(),
            payload.dump(),
            prefix=ChatJob.id_prefix,
            priority=self._rng.choice((0, 5)),
        )
        self.accepted.chats[job.id] = text
        return job

    def _work(self) -> None:
        try:
            while not self._stop.wait(self._rng.uniform(0.01, 0.1)):
                if self._crowded():
                    continue
                drawn = self._rng.random()
                if drawn < 0.08:
                    self.submit_batch(self.batch_texts(self._rng.randint(*BATCH_ROWS)))
                elif drawn < 0.3:
                    self.submit_chat(*self.batch_texts(1))
                else:
                    self._submit_noop()
        except BaseException as exc:  # noqa: BLE001 - shown by the run, which fails
            self.errors.append(exc)

    def _submit_noop(self) -> None:
        if self._client is not None and self._rng.random() < 0.3:
            self._post_noop(self._client)
            return
        rng = self._rng
        steps = rng.choice((0, 0, 1, 3, 8))
        payload = Noop(
            seconds=rng.choice((0.0, 0.1, 0.5, 2.0)) if steps else 0.0,
            steps=steps,
            outcome=rng.choices(("succeed", "fail", "raise"), (20, 1, 1))[0],
        )
        tenant = rng.choice(self._tenants)
        known = [job for job, owner in list(self._owners.items())[-20:] if owner == tenant]
        job = self._submit(
            Noop.kind,
            Noop.queue_for(),
            payload.dump(),
            tenant_id=tenant,
            priority=rng.choice((0, 0, 5)),
            depends_on=(rng.choice(known),) if known and rng.random() < 0.2 else (),
        )
        if rng.random() < 0.04:
            self._cancel(job)

    def _post_noop(self, client: httpx.Client) -> None:
        """Through the gateway, as a client that sends again under the same key until it is told an id."""
        body = {"kind": "noop", "seconds": 0.2, "steps": 2}
        key = {"Idempotency-Key": f"chaos-{self._rng.getrandbits(64):016x}"}
        while True:
            try:
                answer = client.post("/v1/jobs", json=body, headers=key)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 200:
                self.accepted.jobs[answer.json()["id"]] = Noop.kind
                self.posted += 1
                return
            if answer is not None and answer.status_code < 500:
                raise AssertionError(f"the gateway answered {answer.status_code}: {answer.text}")
            self.refused += 1
            time.sleep(0.2)

    def _submit(
        self, kind: str, queue: str, payload: dict[str, Any], *, prefix: str = "job_", **more: Any
    ) -> Job:
        """Send until it is accepted: the second time under the same key finds the first."""
        key = f"chaos-{self._rng.getrandbits(64):016x}"
        values = {
            "id": new_id(prefix),
            "tenant_id": self._rng.choice(self._tenants),
            "kind": kind,
            "queue": queue,
            "payload": payload,
            "max_crashes": MANY,
            "idempotency_key": key,
            "body_hash": key.encode(),
        }
        new = NewJob(**{**values, **more})
        while True:
            try:
                with self._harness.db.transaction(new.tenant_id) as c:
                    job, _ = job_store.submit(c, new)
            except Unavailable:
                self.refused += 1
                time.sleep(0.2)
                continue
            self.accepted.jobs[job.id] = kind
            self._owners[job.id] = new.tenant_id
            return job

    def _cancel(self, job: Job) -> None:
        def cancel() -> None:
            with self._harness.db.transaction(job.tenant_id) as c:
                job_requests.request_cancel(c, job.id)

        try:
            retrying(cancel, attempts=20, patience=0.2)
        except Conflict:
            return  # it has ended by itself

    def _crowded(self) -> bool:
        try:
            return self._harness.unfinished() > MAX_UNFINISHED
        except Unavailable:
            return False

    def _line(self, index: int, text: str) -> dict[str, Any]:
        return {
            "custom_id": f"r{index}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "echo", "messages": [{"role": "user", "content": text}]},
        }

    def _put_model(self, folder: Path) -> str:
        model = folder / "echo-model"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text("{}")
        return self._artifacts.put_tree(model)

    def _make_tenants(self) -> list[UUID]:
        with self._harness.db.core() as c:
            made = [create_tenant(c, f"chaos-{number}") for number in range(TENANTS)]
            # The last one's cap is under the slots of the workers: its lane fills up.
            c.execute("UPDATE core.tenant SET max_running = 3 WHERE id = %s", (made[-1],))
        return made
