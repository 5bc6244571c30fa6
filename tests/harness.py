"""A platform of real processes on private servers, for tests that need the whole: start, kill, freeze, ask.

Knows the services only as `python -m services.<name>.main`, as the supervisor does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy import embedded, processes
from shared import job_store
from shared.bootstrap import bootstrap
from shared.db import Database
from shared.jobs import TERMINAL, Job, NewJob, new_id
from shared.migrate import migrate
from shared.settings import read_settings

ROOT = Path(__file__).resolve().parents[1]
FAST = {"HELIU_LEASE_SECONDS": "6", "HELIU_HEARTBEAT_SECONDS": "2", "HELIU_DRAIN_SECONDS": "5"}


class Process:
    """One service process in a session of its own."""

    def __init__(
        self, service: str, environ: dict[str, str], folder: Path, index: int, module: str | None = None
    ) -> None:
        self.service = service
        self.index = index
        self.ready_file = folder / f"{service}.{index}.{time.monotonic_ns()}.ready"
        self.log = folder / f"{service}.{index}.log"
        # Tied to us: a test run that is killed leaves nothing behind. So start it from the main thread.
        self._popen = processes.spawn(
            [sys.executable, "-m", module or f"services.{service}.main"],
            log=self.log,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("HELIU_")},
                **environ,
                "HELIU_READY_FILE": str(self.ready_file),
                "HELIU_WORKER_INDEX": str(index),
                "PYTHONPATH": str(ROOT),
            },
            cwd=ROOT,
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    @property
    def code(self) -> int | None:
        """How it ended: an exit status, a negative signal, None while it runs."""
        return self._popen.poll()

    def wait_ready(self, seconds: float = 60) -> None:
        wait_for(lambda: self.ready_file.exists() or not self.alive, seconds, f"{self.service} to be ready")
        if not self.ready_file.exists():
            raise RuntimeError(f"{self.service} ended before it was ready:\n{self.log.read_text()[-4000:]}")

    def signal(self, number: int) -> None:
        """To the whole session: the process and its children."""
        if self.alive:
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """kill -9 of the process alone; its children must notice by themselves."""
        if self.alive:
            self._popen.kill()
            self._popen.wait()

    def stop(self, seconds: float = 20) -> int:
        """SIGTERM, then SIGKILL to the session when it does not end."""
        if self.alive:
            self._popen.terminate()
            try:
                self._popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
                self._popen.wait()
        return self._popen.returncode


class Harness:
    """Processes and a database connection of one platform."""

    def __init__(self, database_url: str, redis_url: str, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.environ = {
            "HELIU_HOME": str(folder / "home"),
            "HELIU_DATABASE_URL": database_url,
            "HELIU_REDIS_URL": redis_url,
            "HELIU_TEST_FAULTS": "1",
            "HELIU_THREADS": "1",
            **FAST,
            **settings,
        }
        self.settings = read_settings(self.environ)
        migrate(database_url)
        bootstrap(self.settings)
        self.db = Database(database_url, application="harness", max_size=8)
        self.processes: list[Process] = []
        with self.db.core() as c:
            row = c.execute("SELECT id FROM core.tenant WHERE name = 'default'").fetchone()
            assert row is not None
            self.tenant = row["id"]
            c.execute("UPDATE core.tenant SET max_running = 1000")

    def start(
        self, service: str, index: int = 0, *, wait: bool = True, module: str | None = None, **settings: str
    ) -> Process:
        """Start a service; `module` is what runs in the place of `services.<service>.main`."""
        process = Process(service, {**self.environ, **settings}, self.folder, index, module)
        self.processes.append(process)
        if wait:
            process.wait_ready()
        return process

    def start_gateway(self) -> str:
        """Start the gateway on a free port; returns its address."""
        port = str(embedded.free_port())
        self.environ["HELIU_GATEWAY_PORT"] = port
        self.start("gateway")
        return f"http://127.0.0.1:{port}"

    def key(self, name: str = "default") -> str:
        """The tenant's key (`default`) or the operator's (`operator`)."""
        return str(json.loads((self.settings.home / "keys" / f"{name}.json").read_text())["key"])

    def submit(self, kind: str = "noop", payload: dict[str, Any] | None = None, **values: Any) -> Job:
        """Insert a job as the gateway does, without ringing: the dispatcher will."""
        new = NewJob(
            **{
                "id": new_id("job_"),
                "tenant_id": self.tenant,
                "kind": kind,
                "queue": "monitoring",
                "payload": payload or {},
                **values,
            }
        )
        with self.db.transaction(new.tenant_id) as c:
            return job_store.submit(c, new)[0]

    def job(self, job_id: str) -> Job:
        with self.db.core() as c:
            return job_store.get(c, job_id)

    def events(self, job_id: str) -> list[dict[str, Any]]:
        with self.db.core() as c:
            return job_store.list_events(c, job_id, limit=10_000)

    def wait_job(
        self, job_id: str, seconds: float = 120, *, until: Callable[[Job], bool] | None = None
    ) -> Job:
        """The job once it has ended, or once `until` holds."""
        done = until or (lambda job: job.state in TERMINAL)
        wait_for(lambda: done(self.job(job_id)), seconds, f"job {job_id}")
        return self.job(job_id)

    def unfinished(self) -> int:
        with self.db.core() as c:
            row = c.execute(
                "SELECT count(*) AS n FROM core.job WHERE state IN ('queued', 'leased', 'paused')"
            ).fetchone()
        assert row is not None
        return int(row["n"])

    def logs(self, services: Sequence[str] = ()) -> str:
        """The ends of the logs, for a failing test."""
        return "\n".join(
            f"== {p.service}\n{p.log.read_text()[-3000:]}"
            for p in self.processes
            if not services or p.service in services
        )

    def close(self) -> None:
        for process in self.processes:
            if process.alive:
                process.signal(signal.SIGCONT)
                process._popen.terminate()
        for process in self.processes:
            process.stop()
        self.db.close()


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Return as soon as `condition` holds; raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)


@contextmanager
def platform(database_url: str, redis_url: str, **settings: str) -> Iterator[Harness]:
    """A harness in a temporary folder; every process that it started has ended when the block has."""
    with tempfile.TemporaryDirectory(prefix="heliu-harness-") as folder:
        harness = Harness(database_url, redis_url, Path(folder), **settings)
        try:
            yield harness
        except BaseException:
            sys.stderr.write(harness.logs())
            raise
        finally:
            harness.close()
