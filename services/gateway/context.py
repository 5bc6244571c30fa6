"""The wired parts of one gateway process, and how a route reaches them and its caller. Knows no route."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from services.gateway.answering.orphans import Orphans
from services.gateway.answering.usage import UsageWriter
from services.gateway.auth import Authenticator, Caller
from services.gateway.limits import RateLimiter
from services.gateway.uploads.multipart import UploadSlots
from shared.artifacts import Artifacts
from shared.db import Database
from shared.errors import Unavailable
from shared.kept import KeptAnswers
from shared.live_client import LiveClient, Serving
from shared.queue import Publisher
from shared.sealing import Sealer
from shared.settings import Settings
from shared.telemetry import Span
from shared.worker import Platform

log = logging.getLogger(__name__)


class Bell:
    """Rings after commits on a thread of its own: accepting work never waits for Redis."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._pending: set[str] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="bell")

    def ring(self, queue: str, parent: str | None) -> None:
        """Ring the queue's doorbell soon; rings that have not gone out yet stand for later ones too."""
        with self._lock:
            if queue in self._pending:
                return
            self._pending.add(queue)
        self._pool.submit(self._ring, queue, parent)

    def _ring(self, queue: str, parent: str | None) -> None:
        with self._lock:
            self._pending.discard(queue)
        try:
            self._publisher.ring(queue, parent=parent)
        except Unavailable as exc:
            # The dispatcher rings for every job that waits, so this one is late and not lost.
            log.warning("doorbell_not_rung", extra={"queue": queue, "error": exc.message})
        except Exception:
            log.exception("doorbell_failed", extra={"queue": queue})

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class Gateway:
    """What routes work with; one per process."""

    platform: Platform
    publisher: Publisher
    bell: Bell
    live: LiveClient
    authenticator: Authenticator
    limiter: RateLimiter
    usage: UsageWriter
    uploads: UploadSlots
    kept: KeptAnswers
    orphans: Orphans
    # Which of some queues a living worker takes from.
    serving: Serving
    pepper: str
    # What seals the credentials that a tenant gives.
    sealer: Sealer
    # Set once the database was seen to have every migration: they are never taken back.
    migrated: threading.Event = field(default_factory=threading.Event)
    # Set when the process is asked to stop: streams that follow a job end.
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def db(self) -> Database:
        return self.platform.db

    @property
    def artifacts(self) -> Artifacts:
        return self.platform.artifacts

    @property
    def settings(self) -> Settings:
        return self.platform.settings


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


def _span(request: Request) -> Span:
    span: Span = request.state.span
    return span


GatewayDep = Annotated[Gateway, Depends(_gateway)]
CallerDep = Annotated[Caller, Depends(_caller)]
SpanDep = Annotated[Span, Depends(_span)]
