"""The HTTP server around the application: says when it serves, and how it stops."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.server import HANDLED_SIGNALS

from services.gateway.context import Gateway
from services.gateway.protocol import protocol_for
from shared.metrics import announce


class Server(uvicorn.Server):
    """uvicorn that says when it serves, and lets streams end when it is asked to stop."""

    def __init__(
        self, config: uvicorn.Config, *, closing: threading.Event, on_ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._closing = closing
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without raising the signal again at the end: what is still to be closed would die of it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._closing.set()
        super().handle_exit(sig, frame)


def make_server(app: FastAPI, *, metrics_address: str = "") -> Server:
    """A server for the app's own settings; `port` 0 takes a free one."""
    gateway: Gateway = app.state.gateway
    settings = gateway.settings
    config = uvicorn.Config(
        app,
        host=settings.gateway_host,
        port=settings.gateway_port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=protocol_for(gateway.platform.tracing, settings.body_silence_seconds),
        ws="none",
        lifespan="on",
        backlog=1024,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, int(settings.drain_seconds)),
    )
    return Server(
        config, closing=gateway.closing, on_ready=partial(announce, settings.ready_file, metrics_address)
    )
