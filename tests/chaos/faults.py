"""The faults of a run: each does its harm and returns what undoes it later, if anything does."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import redis
from kombu.exceptions import OperationalError

from shared.contracts.batches import Batch, BatchShard
from shared.contracts.core import Noop
from shared.queue import RING, make_app
from shared.streams import PREFIX
from tests.harness import Process
from tests.servers import RunningServer

QUEUES = (Noop.queue_for(), Batch.queue_for(), BatchShard.queue_for())
WORKERS = ("monitoring", "inference")
RINGS = 100

GARBAGE = (
    b"",
    b"not json",
    b"\xff\xfe\x00",
    b"[1, 2, 3]",
    b'{"body": 1}',
    b'{"body": "!", "headers": {}, "properties": {}}',
    json.dumps(
        {
            "body": "gASVCgAAAAAAAACMBnBpY2tsZZQu",
            "content-encoding": "binary",
            "content-type": "application/x-python-serialize",
            "headers": {"task": "heliu.ring", "id": "forged"},
            "properties": {"body_encoding": "base64", "delivery_tag": "forged", "delivery_info": {}},
        }
    ).encode(),
)


@dataclass
class Stage:
    """What there is to harm. `processes` are those that should run now."""

    postgres: RunningServer
    valkey: RunningServer
    processes: list[Process]
    lease_s: float
    rng: random.Random

    def pick(self, *services: str) -> Process:
        return self.rng.choice([p for p in self.processes if p.service in services])


@dataclass(frozen=True)
class Heal:
    """Undo after `seconds`; `target` is not harmed again until then."""

    seconds: float
    target: object
    undo: Callable[[], None]


Fault = Callable[[Stage], Heal | None]


def kill_worker(stage: Stage) -> None:
    stage.pick(*WORKERS).kill()


def kill_engine(stage: Stage) -> None:
    """kill -9 of a child alone: its worker must notice."""
    worker = stage.pick("inference")
    if worker.alive:
        # Either may end by itself in this moment.
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(worker.pid).children():
                child.kill()


def kill_dispatcher(stage: Stage) -> None:
    stage.pick("dispatcher").kill()


def kill_gateway(stage: Stage) -> None:
    stage.pick("gateway").kill()


def drain_worker(stage: Stage) -> None:
    """SIGTERM; the run starts another when it has ended."""
    worker = stage.pick(*WORKERS)
    if worker.alive:
        os.kill(worker.pid, signal.SIGTERM)


def zombie(stage: Stage) -> Heal:
    """A worker that sleeps past its lease, children and all, and wakes believing that it holds its jobs."""
    worker = stage.pick(*WORKERS)
    worker.signal(signal.SIGSTOP)
    return Heal(stage.lease_s * 1.7, worker, lambda: worker.signal(signal.SIGCONT))


def flush_redis(stage: Stage) -> None:
    client = redis.Redis.from_url(stage.valkey.url, socket_timeout=2)
    try:
        client.flushall()
    except redis.RedisError:
        return  # it is down or frozen just now, which is worse
    finally:
        client.close()


def kill_redis(stage: Stage) -> Heal:
    stage.valkey.kill()
    return Heal(stage.rng.uniform(1, 4), stage.valkey, stage.valkey.start)


def freeze_redis(stage: Stage) -> Heal:
    stage.valkey.freeze()
    return Heal(stage.rng.uniform(1, 4), stage.valkey, stage.valkey.thaw)


def stop_postgres(stage: Stage) -> Heal:
    stage.postgres.stop_immediately()
    return Heal(stage.rng.uniform(0.2, 2), stage.postgres, stage.postgres.start)


def ring_often(stage: Stage) -> None:
    """RINGS doorbells for nothing, past the limit that the publisher keeps."""
    app = make_app(stage.valkey.url)
    app.conf.broker_transport_options["socket_timeout"] = 2
    try:
        for number in range(RINGS):
            app.send_task(RING, args=[{"sent_at": 0}], queue=QUEUES[number % len(QUEUES)])
    except (OperationalError, redis.RedisError, OSError):
        return  # Redis is away just now: nobody can ring
    finally:
        app.close()


def forge_messages(stage: Stage) -> None:
    """What somebody with a hand on Redis may put into the line."""
    client = redis.Redis.from_url(stage.valkey.url, socket_timeout=2)
    try:
        for queue in QUEUES:
            client.lpush(f"{PREFIX}{queue}", *GARBAGE)
    except redis.RedisError:
        return
    finally:
        client.close()


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kill_worker,
        kill_engine,
        kill_dispatcher,
        kill_gateway,
        drain_worker,
        zombie,
        flush_redis,
        kill_redis,
        freeze_redis,
        stop_postgres,
        ring_often,
        forge_messages,
    )
}
