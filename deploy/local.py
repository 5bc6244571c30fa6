"""The platform on this machine: up, down, status, scale, logs. What the operator's verbs call; prints nothing.

Everything lives in one folder (`home`): secrets.json, keys/, artifacts/, logs/, postgres/ (or, as root, where
`postgres.json` says), valkey/, run/ (state of the running platform).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from deploy import control, embedded, folders, logs, plan, processes
from deploy.plan import PROJECT, Specs, whole_platform
from deploy.processes import Identity
from deploy.status import ProcessStatus, Status, read_status
from deploy.table import Table
from shared.errors import HeliuError, InvalidInput, Unavailable

__all__ = [
    "ProcessStatus",
    "Specs",
    "StartFailed",
    "Status",
    "down",
    "environment",
    "is_running",
    "read_logs",
    "scale",
    "start_process",
    "status",
    "stop_process",
    "up",
    "wait_scaled",
]

START_SECONDS = 180.0
FALLS_TO_GIVE_UP = 3  # falls in a row before it was ever ready, while `up` waits


class StartFailed(HeliuError):
    """A process did not become ready; the message ends with its last lines."""

    code = "start_failed"


Progress = Callable[[Status], None]


def up(
    home: Path,
    *,
    on_progress: Progress | None = None,
    only: Iterable[str] | None = None,
    environ: Mapping[str, str] | None = None,
    specs: Specs = whole_platform,
    seconds: float = START_SECONDS,
) -> Status:
    """Start everything (or `only` these services and what they need) and wait until it is ready.

    Fine when it runs already. Raises ConfigurationError, or StartFailed after taking everything down again.
    """
    home = home.resolve()
    environ = os.environ if environ is None else environ
    folders.make_home(home)
    lock = folders.take_lock(home / "run" / "up.lock", wait=True)
    assert lock is not None
    with closing(lock):
        if _read_state(home).get("stopping"):
            _wait_stopped(home, None)
        started = not is_running(home)
        if started:
            end_leftovers(home)
            table = plan.prepare(home, environ, specs=specs, only=only)
            folders.write_private(home / "run" / "table.json", table.dump())
            _start_supervisor(home)
        elif only is not None:
            _check_runs(home, only)
        try:
            return _wait_ready(home, on_progress, seconds)
        except (HeliuError, KeyboardInterrupt):
            if started:
                down(home)
            raise


def _check_runs(home: Path, only: Iterable[str]) -> None:
    running = {process.service for process in status(home).processes}
    if missing := sorted(set(only) - running):
        raise InvalidInput(
            f"it runs already, without {', '.join(missing)}; there are {', '.join(sorted(running))}. "
            "`heliu down` first to start others",
            param="only",
        )


def down(home: Path, *, on_progress: Progress | None = None) -> Status:
    """Stop everything in order and wait for it; fine when nothing runs. Data stays."""
    home = home.resolve()
    if is_running(home):
        state = _read_state(home)
        with suppress(Unavailable):
            control.ask(Path(state.get("control", "")), {"do": "shutdown"})
        _wait_stopped(home, on_progress)
        if is_running(home) and (supervisor := _identity(state.get("supervisor", {}))):
            processes.end([supervisor], stop_signal=signal.SIGKILL, grace=5)
    if (home / "run").exists():
        # While we hold it no supervisor starts; where one has already, what runs is no leftover.
        lock = folders.take_lock(home / "run" / "supervisor.lock")
        if lock is not None:
            with closing(lock):
                end_leftovers(home)
    return status(home)


def status(home: Path) -> Status:
    """What runs now, as the supervisor tells it; without one, that nothing does."""
    home = home.resolve()
    running = is_running(home)
    state: dict[str, Any] = {}
    if running:
        state = _read_state(home)
        with suppress(Unavailable):
            state = control.ask(Path(state.get("control", "")), {"do": "status"})
    return read_status(home, running, state)


def scale(home: Path, service: str, count: int) -> Status:
    """Have `count` processes of `service`; new ones start at once, surplus ones drain. Raises InvalidInput."""
    return read_status(home.resolve(), True, _ask(home, {"do": "scale", "service": service, "count": count}))


def wait_scaled(home: Path, services: Collection[str], *, on_progress: Progress | None = None) -> Status:
    """Wait until every process of `services` is up or gone; raises StartFailed where one keeps falling."""
    while True:
        now = status(home)
        if on_progress and now.processes:
            on_progress(now)
        ours = [process for process in now.processes if process.service in services]
        _raise_for_fallen(ours)
        if not now.running or all(process.settled for process in ours):
            return now
        time.sleep(0.2)


def stop_process(home: Path, name: str) -> Status:
    """Drain one process, e.g. `inference.2`; it stays down until `start_process`."""
    return read_status(home.resolve(), True, _ask(home, {"do": "stop", "process": name}))


def start_process(home: Path, name: str) -> Status:
    """Start one process that was stopped."""
    return read_status(home.resolve(), True, _ask(home, {"do": "start", "process": name}))


def read_logs(
    home: Path, service: str, *, lines: int = 100, follow: bool = False
) -> Iterator[tuple[str, str]]:
    """(process, line) of the last `lines` of every process of `service`, then of what is appended, by processes
    that start later too."""
    folder = home.resolve() / "logs"

    def wanted() -> dict[str, Path]:
        return {
            name: path for name, path in logs.found(folder).items() if service in (name, _service_of(name))
        }

    now = wanted()
    if not now:
        known = sorted({_service_of(name) for name in logs.found(folder)})
        raise InvalidInput(f"no logs of {service!r}; there are logs of {', '.join(known) or 'nothing yet'}")
    ends = {name: logs.end_of_lines(path) for name, path in now.items()} if follow else {}
    for name, path in now.items():
        for line in logs.tail(path, lines, end=ends.get(name)):
            yield name, line
    if follow:
        yield from logs.follow(wanted, ends, go_on=lambda: True)


def _service_of(process: str) -> str:
    return process.rpartition(".")[0] or process


def environment(home: Path) -> dict[str, str]:
    """The HELIU_ settings that the processes here run with (secrets included). Raises Unavailable when down."""
    if not is_running(home):
        raise _not_running(home)
    table = Table.load((home.resolve() / "run" / "table.json").read_text())
    return {key: value for key, value in table.env.items() if key.startswith("HELIU_")}


def is_running(home: Path) -> bool:
    """Whether a supervisor holds this home (it may be on its way up or down)."""
    path = home.resolve() / "run" / "supervisor.lock"
    if not path.exists():
        return False
    lock = folders.take_lock(path, shared=True)
    if lock is None:
        return True
    lock.close()
    return False


def end_leftovers(home: Path) -> None:
    """End what an earlier supervisor left, should the kernel not have: by start time, and by data folder."""
    home = home.resolve()
    left = [one for raw in _read_state(home).get("processes", []) if (one := _identity(raw))]
    processes.end(left, stop_signal=signal.SIGKILL, grace=5, group=True)
    for name, folder, number in (
        ("postgres", folders.recorded_cluster(home), signal.SIGINT),
        ("valkey", home / "valkey", signal.SIGTERM),
    ):
        if folder is not None and folder.exists():
            embedded.end_leftovers(folder, name, stop_signal=number)
    if (home / "run").exists():
        (home / "run" / "state.json").unlink(missing_ok=True)
        folders.remove_short_folders(home)


# --- the supervisor


def _start_supervisor(home: Path) -> None:
    log = home / "logs" / "supervisor.1.log"
    command = [sys.executable, "-P", "-m", "deploy.supervisor", "--home", str(home), "--detach"]
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=home,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
    except subprocess.CalledProcessError as exc:
        raise StartFailed("the supervisor did not start:\n" + "\n".join(logs.tail(log, 20))) from exc
    finally:
        os.close(descriptor)


def _wait_ready(home: Path, on_progress: Progress | None, seconds: float) -> Status:
    deadline = time.monotonic() + seconds
    seen = False
    while True:
        now = status(home)
        seen = seen or now.running
        if on_progress and now.processes:
            on_progress(now)
        _raise_for_fallen(now.processes)
        if now.processes and now.settled:
            return now
        late = time.monotonic() > deadline
        if late or (seen and not now.running):
            waiting = ", ".join(
                f"{p.name} is {p.state}" for p in now.processes if p.state not in ("ready", "done")
            )
            why = (
                f"not ready after {seconds:.0f} s: {waiting}"
                if late
                else "the supervisor ended while starting"
            )
            tail = logs.tail(home / "logs" / "supervisor.1.log", 10)
            raise StartFailed(why + "\n" + "\n".join(tail))
        time.sleep(0.05)


def _raise_for_fallen(found: Iterable[ProcessStatus]) -> None:
    for process in found:
        if process.state == "failed" or (process.state == "backoff" and process.falls >= FALLS_TO_GIVE_UP):
            raise StartFailed(f"{process.name} does not start:\n" + "\n".join(logs.tail(process.log, 20)))


def _wait_stopped(home: Path, on_progress: Progress | None) -> None:
    deadline = time.monotonic() + _patience(home)
    while is_running(home) and time.monotonic() < deadline:
        if on_progress:
            on_progress(status(home))
        time.sleep(0.05)


def _ask(home: Path, request: dict[str, Any]) -> dict[str, Any]:
    home = home.resolve()
    if not is_running(home):
        raise _not_running(home)
    return control.ask(Path(_read_state(home).get("control", "")), request)


def _not_running(home: Path) -> Unavailable:
    return Unavailable(f"nothing runs in {home}; start it with: heliu up", code="not_running")


def _read_state(home: Path) -> dict[str, Any]:
    """What the supervisor wrote last; nothing where it never did, or where a machine that lost its power left
    no whole file: its content is a help, and no condition, for what comes."""
    try:
        state = json.loads((home / "run" / "state.json").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _identity(raw: Mapping[str, Any]) -> Identity | None:
    if not raw.get("pid") or raw.get("started") is None:
        return None
    return Identity(int(raw["pid"]), float(raw["started"]))


def _patience(home: Path) -> float:
    """Seconds that an orderly end may take: the longest grace of each stage, and the harder signals after it."""
    table = home / "run" / "table.json"
    stages: dict[int, float] = {}
    for spec in Table.load(table.read_text()).specs if table.exists() else ():
        stages[spec.stage] = max(stages.get(spec.stage, 0.0), spec.grace + 20)
    return sum(stages.values()) + 20
