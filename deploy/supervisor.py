"""Keeps the process table running: starts in order of need, restarts what falls, drains what is told to stop.
Knows nothing of what the services do. `python -m deploy.supervisor --home H [--detach]` runs the table of H.

One thread, one loop. Everything it starts dies with it, kill -9 included (see attach.py).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from deploy import control, embedded, folders, logs, orphans, processes
from deploy.managed import Process
from deploy.table import Table
from shared.errors import HeliuError, InvalidInput

log = logging.getLogger("supervisor")

HOUSEKEEPING_SECONDS = 10.0


class Supervisor:
    """Runs one table until it is told to shut down."""

    def __init__(self, home: Path, table: Table) -> None:
        self.home = home
        self.table = table
        self.specs = {spec.name: spec for spec in table.specs}
        self.processes = [Process(spec, i + 1) for spec in table.specs for i in range(spec.count)]
        self.stopping = False
        self.control_path = (
            folders.socket_folder(home / "run", home / "run" / "control_sockets", None) / "control"
        )
        self._orphans = orphans.Orphans()
        self._me = processes.identify(os.getpid())
        self._written = ""

    # --- the loop

    def run(self) -> None:
        """Until everything has stopped after `shutdown`, SIGTERM or SIGINT."""
        wake, wake_end = socket.socketpair()
        wake.setblocking(False)
        wake_end.setblocking(False)
        signal.set_wakeup_fd(wake_end.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.shutdown())
        server = control.listen(self.control_path)
        with selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            housekeeping = 0.0
            while self.step():
                for key, _ in selector.select(self._patience()):
                    if key.fileobj is server:
                        self._serve(server)
                    else:
                        with suppress(BlockingIOError):
                            wake.recv(4096)
                if time.monotonic() >= housekeeping:
                    housekeeping = time.monotonic() + HOUSEKEEPING_SECONDS
                    with _surviving("rotation_failed"):
                        logs.rotate_all(self.home / "logs")
        server.close()
        self.control_path.unlink(missing_ok=True)
        self._orphans.end_all()
        folders.remove_short_folders(self.home)
        (self.home / "run" / "state.json").unlink(missing_ok=True)

    def step(self) -> bool:
        """Look at everything once; False when all has stopped and was meant to."""
        for process in self.processes:
            self._reap(process)
        self._orphans.watch(self._children())
        self.processes = [p for p in self.processes if not (p.retired and p.state == "stopped")]
        if self.stopping:
            self._stop_next_stage()
        for process in self.processes:
            self._advance(process)
        self._write_state()
        return not (self.stopping and all(p.child is None for p in self.processes))

    def _patience(self) -> float:
        """Seconds until something must be looked at, should nobody call."""
        now = time.monotonic()
        waits = [HOUSEKEEPING_SECONDS]
        for process in self.processes:
            if process.state == "starting":
                waits.append(0.05)
            elif process.state in ("backoff", "stopping"):
                waits.append(max(process.due - now, 0.0))
        waits += [max(due - now, 0.0) for due in self._orphans.next_due()]
        return min(waits)

    def _advance(self, process: Process) -> None:
        now = time.monotonic()
        if process.state == "waiting":
            if self._needs_met(process):
                self._start(process)
        elif process.state == "backoff":
            if now >= process.due:
                self._start(process)
        elif process.state == "starting" and self._is_ready(process):
            process.enter("ready")
        elif process.state == "stopping" and now >= process.due:
            process.press()

    def _needs_met(self, process: Process) -> bool:
        wanted = set(process.spec.needs)
        return all(other.satisfied for other in self.processes if other.spec.name in wanted)

    # --- one process

    def _start(self, process: Process) -> None:
        spec, ready_file = process.spec, self._ready_file(process)
        ready_file.unlink(missing_ok=True)
        if spec.is_server:
            embedded.end_leftovers(Path(spec.folder), spec.kind, stop_signal=spec.stop_signal)
        env = {**self.table.env, **spec.env}
        if spec.kind == "service":
            env |= {"HELIU_WORKER_INDEX": str(process.index), "HELIU_READY_FILE": str(ready_file)}
        try:
            child = processes.spawn(
                spec.argv,
                log=logs.path(self.home, spec.name, process.index),
                env=None if spec.is_server else env,
                cwd=None if spec.is_server else self.home,
                owner=spec.owner,
                death_signal=spec.death_signal,
            )
        except OSError as exc:  # no memory, no file left: the machine may recover
            log.error("process_not_started %s: %s", process.name, exc)
            process.fall(None)
        else:
            process.started(child)

    def _is_ready(self, process: Process) -> bool:
        spec = process.spec
        if spec.kind == "service":
            try:
                process.metrics = self._ready_file(process).read_text().strip()
            except FileNotFoundError:
                return False
            return True
        if spec.kind == "valkey":
            return embedded.redis_answers(spec.url)
        return spec.kind == "postgres" and embedded.ensure_database(spec.url)

    def _ready_file(self, process: Process) -> Path:
        return self.home / "run" / f"{process.name}.ready"

    def _reap(self, process: Process) -> None:
        """Take note of an end: wanted, or a fall that is mended after a pause."""
        if process.child is None or process.child.poll() is None:
            return
        process.ended(process.child.returncode, wanted=self.stopping)
        self._ready_file(process).unlink(missing_ok=True)
        self._orphans.adopt(self._children())

    def _children(self) -> set[int]:
        return {process.child.pid for process in self.processes if process.child}

    # --- everything at once

    def shutdown(self) -> None:
        self.stopping = True

    def _stop_next_stage(self) -> None:
        running = [p for p in self.processes if p.child]
        stage = min((p.spec.stage for p in running), default=0)
        for process in self.processes:
            if process.child is None and process.state in ("waiting", "backoff"):
                process.enter("stopped")
            elif process.child and process.spec.stage == stage:
                process.stop()

    # --- what others see

    def _write_state(self) -> None:
        text = json.dumps(self.describe(), indent=1)
        if text != self._written:
            with _surviving("state_not_written"):
                folders.write_private(self.home / "run" / "state.json", text + "\n", sync=False)
                self._written = text

    def describe(self) -> dict[str, Any]:
        """The state as JSON, without secrets."""
        return {
            "supervisor": {"pid": os.getpid(), "started": self._me.started if self._me else 0.0},
            "control": str(self.control_path),
            "gateway": self.table.gateway,
            "stopping": self.stopping,
            "processes": [process.describe(self.home) for process in self.processes],
        }

    def _serve(self, server: socket.socket) -> None:
        try:
            connection, _ = server.accept()
        except OSError as exc:  # the client is gone again, or no descriptor is left
            log.warning("control_not_accepted: %s", exc)
            return
        with connection:
            try:
                request = control.receive(connection)
                reply = self.obey(request)
            except HeliuError as exc:
                reply = {"error": exc.message, "param": exc.param}
            except (OSError, ValueError) as exc:
                reply = {"error": f"unreadable request: {exc}"}
            with suppress(OSError):
                control.answer(connection, reply)

    def obey(self, request: dict[str, Any]) -> dict[str, Any]:
        """`{"do": "status" | "scale" | "stop" | "start" | "shutdown", ...}`; raises InvalidInput."""
        match request:
            case {"do": "status"}:
                pass
            case {"do": "shutdown"}:
                self.shutdown()
            case {"do": "scale", "service": str(name), "count": int(count)}:
                self._scale(name, count)
            case {"do": "stop", "process": str(name)}:
                self._named(name).stop()
            case {"do": "start", "process": str(name)}:
                process = self._named(name)
                if process.state in ("stopped", "backoff", "failed"):
                    process.enter("waiting")
            case _:
                raise InvalidInput(f"unknown request {json.dumps(request)[:200]}")
        return self.describe()

    def _named(self, name: str) -> Process:
        for process in self.processes:
            if process.name == name:
                return process
        names = ", ".join(p.name for p in self.processes)
        raise InvalidInput(f"no process is called {name!r}; there are {names}", param="process")

    def _scale(self, name: str, count: int) -> None:
        """Have `count` processes of a service: new ones start at once, the highest numbers drain first."""
        spec = self.specs.get(name)
        if spec is None or not spec.scalable:
            able = ", ".join(s.name for s in self.specs.values() if s.scalable)
            raise InvalidInput(f"{name!r} cannot be scaled; {able} can", param="service")
        if not 0 <= count <= 64:
            raise InvalidInput(f"{name}={count}: the number must be between 0 and 64", param="count")
        kept = sorted((p for p in self.processes if p.spec is spec and not p.retired), key=lambda p: p.index)
        for process in kept[count:]:
            process.retired = True
            process.stop()
        # a number is free again once its process has ended, so no two ever share a name
        taken = {p.index for p in self.processes if p.spec is spec}
        free = (index for index in range(1, 1000) if index not in taken)
        self.processes += [Process(spec, next(free)) for _ in range(count - len(kept))]


@contextmanager
def _surviving(event: str) -> Iterator[None]:
    """A full disk must not take down what runs."""
    try:
        yield
    except OSError as exc:
        log.error("%s: %s", event, exc)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the process table in HOME/run/table.json.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--detach", action="store_true", help="leave the caller and run in the background")
    arguments = parser.parse_args()
    home: Path = arguments.home.resolve()
    if arguments.detach and os.fork():
        os._exit(0)  # the caller waits for us and is free; init inherits the child
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=logs.FORMAT, force=True)
    # Whoever asks what runs holds the lock for the blink of an eye, a `down` while it ends leftovers.
    lock = folders.take_lock(home / "run" / "supervisor.lock", patience=30.0)
    if lock is None:
        log.error("another_supervisor_runs")
        return 1
    orphans.adopt_from_now_on()
    try:
        Supervisor(home, Table.load((home / "run" / "table.json").read_text())).run()
    finally:
        lock.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
