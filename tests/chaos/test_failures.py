"""One failure a test, each with what must come of it: real processes, real servers, no clock in any assertion."""

from __future__ import annotations

import pickle
import random
import secrets
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from kombu import Connection

from shared.db import retrying
from shared.jobs import Job, Status
from shared.queue import RING, broker_url, make_app
from shared.streams import PREFIX
from tests import servers
from tests.chaos.full_disk_worker import CANNOT_MOUNT
from tests.chaos.load import Load
from tests.chaos.proxy import proxy_to
from tests.harness import Harness, Process, platform, wait_for

QUEUE = "monitoring"
ECHO = "tests.chaos.worker"
RINGS = 100
# Where a test counts crashes or epochs, a machine that stands still for some seconds must not add one.
PATIENT = {"HELIU_LEASE_SECONDS": "600", "HELIU_HEARTBEAT_SECONDS": "2", "HELIU_DRAIN_SECONDS": "60"}


@pytest.fixture(scope="module")
def calm(postgres: servers.RunningServer, valkey: servers.RunningServer) -> Iterator[Harness]:
    """A platform with a dispatcher, on servers that nobody hurts; each test starts its workers."""
    name = f"failures_{secrets.token_hex(4)}"
    with platform(servers.new_database(postgres.url, name), valkey.url) as harness:
        harness.start("dispatcher")
        yield harness
    servers.drop_database(postgres.url, name)


@pytest.fixture
def start(calm: Harness) -> Iterator[Callable[..., Process]]:
    """Starts workers that have ended when the test has."""
    begun: list[Process] = []

    def begin(service: str = QUEUE, index: int = 0, **options: Any) -> Process:
        begun.append(calm.start(service, index, **options))
        return begun[-1]

    yield begin
    for process in begun:
        process.signal(signal.SIGKILL)
        process.stop()


def until_step(harness: Harness, job: Job, epoch: int = 1) -> None:
    """Wait until the job has written a step in `epoch`."""
    wait_for(lambda: epoch in epochs(harness, job), 120, f"a step of epoch {epoch}")


def epochs(harness: Harness, job: Job) -> list[int]:
    return [e["data"]["epoch"] for e in harness.events(job.id) if e["type"] == "noop_step"]


def types(harness: Harness, job: Job) -> list[str]:
    return [event["type"] for event in harness.events(job.id)]


def expire(harness: Harness, job: Job) -> None:
    """Let the lease run out now. Whoever was frozen inside a transaction holds the row until Postgres ends it."""

    def work() -> None:
        with harness.db.core() as c:
            c.execute("UPDATE core.job SET lease_until = now() - interval '1 s' WHERE id = %s", (job.id,))

    retrying(work, attempts=30, patience=0.2)


def test_a_zombie_that_wakes_after_its_lease_writes_nothing(
    calm: Harness, start: Callable[..., Process]
) -> None:
    # It believes that its lease lasts for minutes, so that nothing but the fence stands in its way.
    zombie = start(QUEUE, 0, **PATIENT)
    job = calm.submit(payload={"seconds": 12, "steps": 120})
    until_step(calm, job)
    zombie.signal(signal.SIGSTOP)
    start(QUEUE, 1, **PATIENT)
    expire(calm, job)
    until_step(calm, job, epoch=2)
    zombie.signal(signal.SIGCONT)
    wait_for(lambda: '"lease_lost"' in zombie.log.read_text(), 60, "the zombie to notice")
    done = calm.wait_job(job.id)
    assert (done.state, done.epoch, done.crashes) == (Status.SUCCEEDED, 2, 1)
    assert epochs(calm, job) == sorted(epochs(calm, job))
    assert types(calm, job).count("job_succeeded") == 1


def test_a_drained_worker_gives_its_job_back_without_charging_the_attempt(
    calm: Harness, start: Callable[..., Process]
) -> None:
    worker = start(QUEUE, 0, **PATIENT)
    job = calm.submit(payload={"seconds": 30, "steps": 300})
    until_step(calm, job)
    assert worker.stop(90) == 0
    given_back = calm.job(job.id)
    assert (given_back.state, given_back.attempt, given_back.crashes) == (Status.QUEUED, 0, 0)
    with calm.db.core() as c:
        c.execute("UPDATE core.job SET payload = %s WHERE id = %s", ('{"steps": 1}', job.id))
    start(QUEUE, 1, **PATIENT)
    assert calm.wait_job(job.id).attempt == 1


def test_a_worker_that_starts_again_under_its_name_releases_what_it_held_at_once(
    calm: Harness, start: Callable[..., Process]
) -> None:
    first = start(QUEUE, 0, **PATIENT)
    job = calm.submit(payload={"seconds": 2, "steps": 20})
    until_step(calm, job)
    first.kill()
    held = calm.job(job.id)
    assert held.lease_until is not None
    assert held.lease_until > datetime.now(UTC) + timedelta(seconds=300)
    start(QUEUE, 0, **PATIENT)
    done = calm.wait_job(job.id)
    assert (done.state, done.epoch, done.crashes) == (Status.SUCCEEDED, 2, 1)
    assert any("was restarted" in event["message"] for event in calm.events(job.id))


def test_a_hundred_doorbells_and_a_restored_message_start_a_running_job_no_second_time(
    calm: Harness, start: Callable[..., Process]
) -> None:
    start(QUEUE, 0, **PATIENT)
    start(QUEUE, 1, **PATIENT)
    job = calm.submit(payload={"seconds": 4, "steps": 40})
    until_step(calm, job)
    app = make_app(calm.settings.redis_url)
    for _ in range(RINGS):
        app.send_task(RING, args=[{}], queue=QUEUE)
    app.close()
    with redis.Redis.from_url(calm.settings.redis_url) as client:
        # Nothing stays unacknowledged while a job runs, so no visibility time-out can hand it out again...
        wait_for(lambda: client.llen(f"{PREFIX}{QUEUE}") == 0, 60, "the doorbells to be heard")
        wait_for(lambda: client.hlen(f"{PREFIX}unacked") == 0, 60, "the doorbells to be acknowledged")
    # ... not even one that has run out already.
    options = {"visibility_timeout": -3600, "global_keyprefix": PREFIX}
    with Connection(broker_url(calm.settings.redis_url), transport_options=options) as connection:
        connection.default_channel.qos.restore_visible(num=100)
    done = calm.wait_job(job.id)
    assert (done.state, done.epoch) == (Status.SUCCEEDED, 1)
    assert types(calm, job).count("job_started") == 1


class _Canary:
    """Unpickling it would touch a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._path,))


def test_a_pickled_message_is_refused_and_the_worker_goes_on(
    calm: Harness, start: Callable[..., Process], tmp_path: Path
) -> None:
    worker = start(QUEUE, 0)
    canary = tmp_path / "unpickled"
    app = make_app(calm.settings.redis_url)
    app.conf.accept_content = ["pickle", "json"]
    app.send_task(RING, args=[_Canary(canary)], queue=QUEUE, serializer="pickle")
    app.close()
    with redis.Redis.from_url(calm.settings.redis_url) as client:
        client.lpush(f"{PREFIX}{QUEUE}", b"no message at all", pickle.dumps(_Canary(canary)))
        wait_for(lambda: client.llen(f"{PREFIX}{QUEUE}") == 0, 60, "the messages to be taken")
    assert calm.wait_job(calm.submit().id).state is Status.SUCCEEDED
    wait_for(lambda: "message_refused" in worker.log.read_text(), 30, "the refusal to be logged")
    assert "ContentDisallowed" in worker.log.read_text()
    assert worker.alive
    assert not canary.exists()


def test_a_child_that_always_dies_ends_its_shard_dead_with_the_reason(
    calm: Harness, start: Callable[..., Process]
) -> None:
    start("inference", 0, module=ECHO, **PATIENT)
    load = Load(calm, random.Random(0))
    batch = load.submit_batch(["die"])
    done = calm.wait_job(batch.id, 240)
    with calm.db.core() as c:
        shard: Any = c.execute("SELECT * FROM core.job WHERE parent_id = %s", (batch.id,)).fetchone()
    assert (shard["state"], shard["crashes"], shard["max_crashes"]) == ("dead", 3, 3)
    assert "SIGKILL" in shard["error"]["message"]
    assert done.state is Status.SUCCEEDED
    assert done.result is not None
    assert done.result["request_counts"] == {"total": 1, "completed": 0, "failed": 1}


def test_jobs_are_accepted_while_redis_is_down_and_run_when_it_is_back(database_url: str) -> None:
    with servers.valkey_server() as valkey, platform(database_url, valkey.url) as harness:
        harness.start("dispatcher")
        worker = harness.start(QUEUE)
        valkey.kill()
        jobs = [harness.submit(payload={"steps": 1}) for _ in range(20)]
        valkey.start()
        for job in jobs:
            assert harness.wait_job(job.id).state is Status.SUCCEEDED
        assert worker.alive


@pytest.mark.long
def test_a_worker_claims_by_hand_while_redis_stays_away_and_hears_again_afterwards(database_url: str) -> None:
    with servers.valkey_server() as valkey, platform(database_url, valkey.url) as harness:
        harness.start("dispatcher")
        worker = harness.start(QUEUE)
        valkey.kill()
        assert harness.wait_job(harness.submit().id).state is Status.SUCCEEDED
        assert "claim_by_hand" in worker.log.read_text()
        valkey.start()
        assert harness.wait_job(harness.submit().id).state is Status.SUCCEEDED
        with redis.Redis.from_url(valkey.url) as client:
            wait_for(lambda: client.llen(f"{PREFIX}{QUEUE}") == 0, 120, "the doorbells to be heard")
        assert worker.alive


def test_a_hard_stop_of_postgres_in_mid_run_loses_and_doubles_nothing(redis_url: str) -> None:
    with servers.postgres_server() as postgres, platform(postgres.url, redis_url) as harness:
        harness.start("dispatcher")
        worker = harness.start(QUEUE)
        jobs = [harness.submit(payload={"seconds": 1, "steps": 20}) for _ in range(12)]
        until_step(harness, jobs[0])
        postgres.stop_immediately()
        postgres.start()
        for job in jobs:
            done = harness.wait_job(job.id)
            assert done.state is Status.SUCCEEDED
            assert done.epoch == 1 + done.crashes
            assert types(harness, job).count("job_succeeded") == 1
            told = [e["data"] for e in harness.events(job.id) if e["type"] == "noop_step"]
            steps = [(data["epoch"], data["step"]) for data in told]
            assert steps == sorted(set(steps))
        assert worker.alive


@pytest.mark.long
def test_a_worker_consumes_again_after_its_connections_to_redis_died_in_silence(database_url: str) -> None:
    with servers.valkey_server(tcp=True) as valkey:
        port = urlsplit(valkey.url).port
        assert port is not None
        with proxy_to(port) as proxy, platform(database_url, valkey.url) as harness:
            harness.start("dispatcher")
            through = valkey.url.replace(f":{port}/", f":{proxy.port}/")
            worker = harness.start(QUEUE, HELIU_REDIS_URL=through)
            assert harness.wait_job(harness.submit().id).state is Status.SUCCEEDED
            proxy.swallow()
            job = harness.submit()
            assert harness.wait_job(job.id, 120).state is Status.SUCCEEDED
            # A job may also be claimed by hand; a doorbell is only ever heard on a connection that lives.
            with redis.Redis.from_url(valkey.url) as client:
                wait_for(lambda: client.llen(f"{PREFIX}{QUEUE}") == 0, 120, "the doorbells to be heard")
            assert worker.alive, "it should reconnect, not need the watchdog"


def test_a_frozen_redis_stops_neither_submissions_nor_what_runs(database_url: str) -> None:
    with servers.valkey_server() as valkey, platform(database_url, valkey.url) as harness:
        harness.start("dispatcher")
        harness.start(QUEUE)
        running = harness.submit(payload={"seconds": 2, "steps": 20})
        until_step(harness, running)
        valkey.freeze()
        waiting = harness.submit(payload={"steps": 1})
        assert harness.wait_job(running.id).state is Status.SUCCEEDED
        valkey.thaw()
        assert harness.wait_job(waiting.id).state is Status.SUCCEEDED


def test_a_full_disk_ends_the_job_with_that_reason_and_harms_no_other(
    database_url: str, redis_url: str
) -> None:
    with platform(database_url, redis_url) as harness:
        harness.start("dispatcher")
        worker = harness.start(QUEUE, wait=False, module="tests.chaos.full_disk_worker")
        wait_for(lambda: worker.ready_file.exists() or not worker.alive, 60, "the worker")
        if worker.code == CANNOT_MOUNT:
            pytest.skip("this system lets nobody mount a small file system")
        worker.wait_ready()
        big = harness.wait_job(harness.submit(payload={"steps": 40}, max_attempts=1).id)
        assert big.state is Status.DEAD
        assert big.error is not None
        assert big.error["code"] == "storage_full"
        assert "the disk is full" in big.error["message"]
        assert harness.wait_job(harness.submit(payload={"steps": 0}).id).state is Status.SUCCEEDED
        assert worker.alive
