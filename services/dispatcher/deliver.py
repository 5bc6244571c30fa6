"""Delivers webhooks: claims what is due, signs it (Standard Webhooks), sends it, and writes what came of it.

A claim is a short transaction that moves `next_at` past the longest that an attempt can take, so that a dispatcher
that dies is followed by another try. No transaction is open while a receiver takes its time, and one endpoint or
tenant can only hold its share of the threads. At least once, with a `webhook-id` that stays the same.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Protocol

from services.dispatcher import webhooks_repository
from services.dispatcher.webhooks_repository import Delivery
from shared.db import Database, retrying
from shared.errors import HeliuError, InvalidInput, Unavailable
from shared.outbound import Forbidden, Response
from shared.webhooks import sign

log = logging.getLogger(__name__)

THREADS = 16
PER_TENANT = 2
MAX_ATTEMPTS = 10
FIRST_PAUSE_S, PAUSE_FACTOR, LONGEST_PAUSE_S = 5.0, 3.0, 4 * 3600.0
# An attempt may also wait for the resolver, which has time-outs of its own.
LEASE_MARGIN_S = 60.0
GONE = 410


class Client(Protocol):
    """What delivering needs of the outbound client."""

    @property
    def timeout_s(self) -> float: ...

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Response: ...


class Deliverer:
    """Delivers on a few threads. `deliver_due` starts what may start now and never waits for a receiver."""

    def __init__(self, db: Database, client: Client, *, threads: int = THREADS) -> None:
        self._db = db
        self._client = client
        self._threads = threads
        self._lease = timedelta(seconds=client.timeout_s + LEASE_MARGIN_S)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="webhook")
        self._flying: dict[str, Delivery] = {}
        self._working = 0
        self._changed = threading.Condition()
        self._claiming = threading.Lock()
        self._closed = threading.Event()

    def deliver_due(self) -> int:
        """Start deliveries until none is due or no place is free; returns how many. Raises Unavailable."""
        started = 0
        while (delivery := self._claim()) is not None:
            with self._changed:
                self._working += 1
            self._pool.submit(self._work, delivery)
            started += 1
        return started

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is under way; False when `timeout_s` was not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._working, timeout_s)

    def close(self) -> None:
        """Wait for what is under way, which the client's time limit bounds, and end the threads."""
        self._closed.set()
        self._pool.shutdown(wait=True)

    def _claim(self) -> Delivery | None:
        """Take a delivery whose endpoint and tenant have a place; one claim at a time, so that shares hold."""
        with self._claiming:
            with self._changed:
                flying = list(self._flying.values())
            if len(flying) >= self._threads or self._closed.is_set():
                return None
            tenants = Counter(delivery.tenant_id for delivery in flying)
            with self._db.core() as connection:
                delivery = webhooks_repository.claim(
                    connection,
                    self._lease,
                    endpoints=[one.endpoint_id for one in flying],
                    tenants=[tenant for tenant, count in tenants.items() if count >= PER_TENANT],
                )
            if delivery is not None:
                with self._changed:
                    self._flying[delivery.id] = delivery
            return delivery

    def _work(self, first: Delivery) -> None:
        """Deliver, and then whatever has come due in the place that this leaves."""
        delivery: Delivery | None = first
        try:
            while delivery is not None:
                self._attempt(delivery)
                delivery = self._claim()
        except Unavailable as exc:
            log.warning("webhook_claim_failed", extra={"error": exc.message})
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    def _attempt(self, delivery: Delivery) -> None:
        try:
            attempt(self._db, self._client, delivery)
        except Unavailable as exc:
            # It stays claimed until its lease runs out, and is sent again: at least once.
            log.warning("webhook_end_not_written", extra={"webhook": delivery.id, "error": exc.message})
        except Exception:
            log.exception("webhook_raised", extra={"webhook": delivery.id})
        finally:
            with self._changed:
                del self._flying[delivery.id]


def attempt(db: Database, client: Client, delivery: Delivery) -> bool:
    """Send once and write the end; True when the receiver took it. Raises Unavailable without Postgres."""
    error, again = send(client, delivery)
    pause = pause_after(delivery.attempts) if again else None

    def write() -> None:
        with db.core() as connection:
            if error is None:
                webhooks_repository.delivered(connection, delivery)
            else:
                webhooks_repository.failed(connection, delivery, error, pause)

    retrying(write, attempts=6, patience=0.2)
    if error is not None:
        fields = {"webhook": delivery.id, "attempt": delivery.attempts, "error": error, "last": pause is None}
        log.warning("webhook_not_delivered", extra=fields)
    return error is None


def send(client: Client, delivery: Delivery) -> tuple[str | None, bool]:
    """(what went wrong, whether to try again); (None, False) when it was delivered."""
    if delivery.deleted:
        return "the endpoint was deleted", False
    timestamp = int(time.time())
    try:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "heliu-webhooks/1",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(delivery.secret, delivery.id, timestamp, delivery.body),
        }
        status = client.post(delivery.url, delivery.body.encode(), headers).status
    except Forbidden as exc:
        # A name may point elsewhere tomorrow, so this is tried again like any other failure.
        return exc.message, True
    except InvalidInput as exc:
        return exc.message, False
    except HeliuError as exc:
        return exc.message, True
    if 200 <= status < 300:
        return None, False
    return f"the receiver answered {status}", status != GONE


def pause_after(attempts: int) -> timedelta | None:
    """How long to wait after `attempts` attempts, with jitter; None to give up (8.5 hours after the first)."""
    if attempts >= MAX_ATTEMPTS:
        return None
    pause = min(FIRST_PAUSE_S * PAUSE_FACTOR ** (attempts - 1), LONGEST_PAUSE_S)
    return timedelta(seconds=pause * random.uniform(0.8, 1.2))
