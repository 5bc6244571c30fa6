"""What a worker does whose doorbells do not reach it: claim by hand, and end when messages lie before its door."""

from __future__ import annotations

import signal

from shared.jobs import Status
from shared.queue import Publisher
from shared.telemetry import Tracing
from tests.harness import platform, wait_for

DEAF = "tests.integration.deaf_worker"


def test_a_deaf_worker_claims_by_hand_and_ends_when_a_doorbell_waits_unheard(
    database_url: str, redis_url: str
) -> None:
    with platform(database_url, redis_url) as harness:
        worker = harness.start("monitoring", module=DEAF)
        unrung = harness.submit()
        assert harness.wait_job(unrung.id).state is Status.SUCCEEDED
        assert worker.alive
        publisher = Publisher(redis_url, Tracing("test"))
        publisher.ring("monitoring")
        publisher.close()
        wait_for(lambda: not worker.alive, 120, "the deaf worker to end")
        assert worker.code == -signal.SIGKILL
        assert "worker_deaf" in worker.log.read_text()
