"""Real Postgres and Valkey servers for tests, private to one test run, that can be hurt. Knows no schema.

URL forms, the same that `heliu up` gives to every process:

- Postgres: `postgresql://heliu:PASSWORD@/heliu?host=/folder/of/the/socket` (a superuser; no TCP),
  `postgresql://heliu:PASSWORD@127.0.0.1:PORT/heliu` with `tcp=True`.
- Redis: `unix://:PASSWORD@/path/valkey.sock?db=0`, which redis-py takes as it is. kombu and Celery call the
  same socket `redis+socket://:PASSWORD@/path/valkey.sock?virtual_host=0`: whoever hands HELIU_REDIS_URL to
  Celery replaces `unix://` by `redis+socket://` and `?db=` by `?virtual_host=` (`shared.queue.broker_url`
  does that; kombu 5.7 loses a password that is given as a query). With `tcp=True`, for a proxy in
  between: `redis://:PASSWORD@127.0.0.1:PORT/0`, good for both.

Both run in sessions of their own and die with the process that started them, kill -9 included; Postgres without
fsync unless asked. Start them from the main thread.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from deploy import embedded, processes
from deploy.embedded import Server


class RunningServer:
    """One server that a test may stop, kill, freeze and start again; its data stays in its folder."""

    def __init__(self, server: Server, log: Path, answers: Callable[[str], bool]) -> None:
        self.server = server
        self.url = server.url
        self.log = log
        self._answers = answers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _death_signal(self) -> int:
        # A frozen server never takes SIGTERM; Valkey keeps nothing on disk that it could tear.
        return signal.SIGKILL if self.server.name == "valkey" else self.server.stop_signal

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not started"
        return self._process.pid

    def start(self, *, seconds: float = 30) -> None:
        """Start it and wait until it answers."""
        self._end_leftovers()
        self._process = processes.spawn(
            self.server.argv, log=self.log, owner=self.server.owner, death_signal=self._death_signal
        )
        deadline = time.monotonic() + seconds
        while not self._answers(self.url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.server.name} did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Orderly: Postgres's fast shutdown, Valkey's SIGTERM. Fine when it does not run."""
        self._end(self.server.stop_signal)

    def stop_immediately(self) -> None:
        """As `pg_ctl stop -m immediate`: no checkpoint, the next start recovers from the log."""
        self._end(self.server.hard_signal)

    def kill(self) -> None:
        """kill -9 of the server and of every process that it made."""
        for identity in processes.working_in(self.server.folder):
            processes.send(identity, signal.SIGKILL)
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP to all its processes: connections stay open and nothing answers."""
        for identity in processes.working_in(self.server.folder):
            processes.send(identity, signal.SIGSTOP)

    def thaw(self) -> None:
        for identity in processes.working_in(self.server.folder):
            processes.send(identity, signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._end_leftovers()

    def _end_leftovers(self) -> None:
        embedded.end_leftovers(self.server.folder, self.server.name, stop_signal=self.server.stop_signal)


@contextmanager
def postgres_server(*, tcp: bool = False, fast: bool = True) -> Iterator[RunningServer]:
    """A started Postgres with an empty database `heliu`; not `fast`, it is set as `heliu up` sets it."""
    with _home() as home:
        port = embedded.free_port() if tcp else None
        server = embedded.prepare_postgres(home, "test-password", fast=fast, tcp_port=port)
        running = RunningServer(server, home / "postgres.log", embedded.ensure_database)
        try:
            running.start()
            yield running
        finally:
            running.thaw()
            running.stop()


@contextmanager
def valkey_server(*, tcp: bool = False) -> Iterator[RunningServer]:
    """A started, empty Valkey that evicts nothing and saves nothing."""
    with _home() as home:
        server = embedded.prepare_valkey(
            home, "test-password", tcp_port=embedded.free_port() if tcp else None
        )
        running = RunningServer(server, home / "valkey.log", embedded.redis_answers)
        try:
            running.start()
            yield running
        finally:
            running.thaw()
            running.stop()


def new_database(server_url: str, name: str, *, template: str = "template0") -> str:
    """Create the database `name` as a copy of `template` on the server of `server_url`; returns its URL."""
    with psycopg.connect(server_url, dbname="postgres", autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    return database_on(server_url, name)


def drop_database(server_url: str, name: str) -> None:
    """Drop the database `name`, with the connections that are still open to it."""
    with psycopg.connect(server_url, dbname="postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def database_on(server_url: str, name: str) -> str:
    """`server_url` with another database's name."""
    return urlsplit(server_url)._replace(path=f"/{name}").geturl()


@contextmanager
def _home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="heliu-test-"))
    home.chmod(0o711)  # ours, and as root Postgres's user must pass through it
    (home / "run").mkdir(mode=0o700)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
