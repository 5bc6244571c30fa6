"""The Celery application: publishing, and the loop of a worker. The only file that knows Celery and kombu.

A durable job never travels in a message: a doorbell says "look at your queue". A live request does, with an expiry.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from celery.concurrency.thread import TaskPool
from celery.platforms import SecurityWarning
from celery.signals import setup_logging, worker_ready, worker_shutting_down
from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from kombu.transport.virtual import Empty
from redis.exceptions import RedisError

from shared import semconv, streams
from shared.errors import Unavailable
from shared.telemetry import Tracing

log = logging.getLogger(__name__)

RING = "heliu.ring"
LIVE = "heliu.live"
DOORBELLS_ENOUGH = 64


def broker_url(redis_url: str) -> str:
    """kombu's form of a redis-py URL: unix sockets are called `redis+socket://` and `virtual_host` there."""
    if redis_url.startswith("unix://"):
        return redis_url.replace("unix://", "redis+socket://", 1).replace("?db=", "?virtual_host=", 1)
    return redis_url


def make_app(redis_url: str) -> Celery:
    """A Celery application with the settings that the job core rests on."""
    # kombu picks the transport by the scheme of the URL; there is no other way to hand it a class.
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "shared.queue:PatientTransport"))
    app = Celery("heliu", set_as_current=False)
    app.conf.update(
        broker_url=broker_url(redis_url),
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=False,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        accept_content=["json"],
        task_serializer="json",
        task_publish_retry=False,
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        broker_transport_options={
            "visibility_timeout": 60,
            "socket_timeout": 15,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "retry_on_timeout": True,
            "health_check_interval": 5,
            "global_keyprefix": streams.PREFIX,
        },
    )
    return app


class PatientChannel(kombu_redis.Channel):  # type: ignore[misc]
    """Drops what is no message instead of dying of it: kombu lets a line that is not JSON end the worker."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (*self.connection_errors, Empty):
            raise
        except Exception as exc:  # noqa: BLE001 - whatever it was, it came out of one message
            log.warning("message_refused", extra={"error": f"{type(exc).__name__}: {exc}"})
            return None


class PatientTransport(kombu_redis.Transport):  # type: ignore[misc]
    Channel = PatientChannel


class Publisher:
    """Rings doorbells and sends live requests; safe to use from several threads."""

    def __init__(self, redis_url: str, tracing: Tracing) -> None:
        self._app = make_app(redis_url)
        self._redis: redis.Redis = streams.connect(redis_url)
        self._tracing = tracing

    def backlog(self, queue: str) -> int:
        """Messages that wait in a queue. Raises Unavailable."""
        return streams.backlog(self._redis, queue)

    def ring(self, queue: str, times: int = 1, *, parent: str | None = None) -> int:
        """Ring so that at most DOORBELLS_ENOUGH wait; returns how many were rung. Raises Unavailable."""
        wanted = min(times, DOORBELLS_ENOUGH - self.backlog(queue))
        for _ in range(wanted):
            if parent is None:
                self._publish(RING, queue, [{"sent_at": time.time()}])
                continue
            with self._send_span(queue, parent) as span:
                self._publish(RING, queue, [{"sent_at": time.time(), "traceparent": span.traceparent}])
        return max(wanted, 0)

    def send_live(
        self, queue: str, envelope: Mapping[str, Any], *, expires_s: float, parent: str | None
    ) -> None:
        """Put a live request into the line; Celery drops it after `expires_s`. Raises Unavailable."""
        with self._send_span(queue, parent) as span:
            body = {**envelope, "sent_at": time.time(), "traceparent": span.traceparent}
            self._publish(LIVE, queue, [body], expires=expires_s)

    def _send_span(self, queue: str, parent: str | None) -> Any:
        return self._tracing.span(
            f"send {queue}",
            kind="producer",
            parent=parent,
            attributes={
                semconv.MESSAGING_SYSTEM: "celery",
                semconv.MESSAGING_DESTINATION: queue,
                semconv.MESSAGING_OPERATION: "send",
            },
        )

    def _publish(self, task: str, queue: str, args: Sequence[Any], expires: float | None = None) -> None:
        try:
            self._app.send_task(task, args=args, queue=queue, expires=expires, ignore_result=True)
        except (OperationalError, RedisError, OSError) as exc:
            raise Unavailable(
                f"the queue {queue} cannot be reached: {exc}", code="redis_unavailable"
            ) from exc

    def close(self) -> None:
        self._redis.close()
        self._app.close()


class WakingPool(TaskPool):  # type: ignore[misc]
    """A thread pool whose finished tasks wake the worker's event loop.

    With `worker_disable_prefetch` the loop asks Redis for more only when it turns, and nothing turns it when a
    thread ends: a freed slot then idles for up to a second.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._heard, self._wake = os.pipe()
        os.set_blocking(self._heard, False)
        os.set_blocking(self._wake, False)

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        result = super().on_apply(*args, **kwargs)
        result.f.add_done_callback(self._ended)
        return result

    def _ended(self, _: Future[Any]) -> None:
        try:
            os.write(self._wake, b".")
        except BlockingIOError:
            # The pipe is full of wake-ups that the loop has not read: it will turn.
            return
        except OSError as exc:
            log.debug("pool_closed", extra={"error": str(exc)})

    def register_with_event_loop(self, hub: Any) -> None:
        hub.add_reader(self._heard, self._drain)

    def _drain(self) -> None:
        try:
            while os.read(self._heard, 4096):
                continue
        except BlockingIOError:
            return


class QueueWorker:
    """Celery's worker around two functions: what to do at a doorbell, and how to serve a live request."""

    def __init__(
        self,
        redis_url: str,
        *,
        name: str,
        queues: Sequence[str],
        slots: int,
        on_ring: Callable[[str, str | None], None],
        on_live: Callable[[dict[str, Any]], None],
        on_ready: Callable[[], None],
        on_drain: Callable[[], None],
        drain_s: float,
    ) -> None:
        self._app = make_app(redis_url)
        self._name = name
        self._queues = list(queues)
        self._slots = slots
        self._on_ready = on_ready
        self._on_drain = on_drain
        self._drain_s = drain_s
        self._in_work = 0
        self._lock = threading.Lock()
        self.heard_at = time.monotonic()

        @self._app.task(name=RING, bind=True, ignore_result=True)  # type: ignore[untyped-decorator]
        def ring(task: Any, envelope: Any = None) -> None:
            queue = task.request.delivery_info.get("routing_key")
            if queue in self._queues:
                parent = envelope.get("traceparent") if isinstance(envelope, dict) else None
                with self._at_work():
                    on_ring(queue, parent if isinstance(parent, str) else None)

        @self._app.task(name=LIVE, ignore_result=True)  # type: ignore[untyped-decorator]
        def live(envelope: Any) -> None:
            with self._at_work():
                on_live(envelope)

    @property
    def free(self) -> bool:
        """Whether a thread is free to take the next message."""
        return self._in_work < self._slots

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._lock:
            self._in_work += 1
            self.heard_at = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._in_work -= 1

    def run(self) -> int:
        """Consume until a signal; returns the exit code. Call it from the main thread."""
        # The process has set its logging up; and Celery's warning of root is about pickle, which is not accepted.
        setup_logging.connect(_keep_logging, weak=False)
        warnings.simplefilter("ignore", SecurityWarning)
        worker_ready.connect(self._ready, weak=False)
        worker_shutting_down.connect(self._shutting_down, weak=False)
        worker = self._app.Worker(
            hostname=f"{self._name}@{os.uname().nodename}",
            pool="shared.queue:WakingPool",
            concurrency=self._slots,
            queues=self._queues,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        worker.start()
        return int(worker.exitcode or 0)

    def _ready(self, **_: Any) -> None:
        self._on_ready()

    def _shutting_down(self, **_: Any) -> None:
        # Celery waits for its threads without limit, so a timer of our own ends what does not end itself.
        killer = threading.Timer(self._drain_s + 5, os._exit, (75,))
        killer.daemon = True
        killer.start()
        self._on_drain()


def _keep_logging(**_: Any) -> None:
    """Connected to Celery's `setup_logging`, which then leaves the root logger alone."""
