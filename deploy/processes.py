"""Processes of the operating system: started tied to us, recognised again by start time, ended for certain.
Knows nothing of what they run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ATTACH = Path(__file__).with_name("attach.py")


@dataclass(frozen=True)
class Owner:
    """A user that a process runs as, by number."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Identity:
    """A process that cannot be confused with a later one of the same number. `started`: clock ticks since
    boot on Linux, seconds since the epoch elsewhere."""

    pid: int
    started: float


def spawn(
    argv: Sequence[str],
    *,
    log: Path | int,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    owner: Owner | None = None,
    death_signal: int = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, output appended to `log`; `death_signal` reaches it when we die.

    Call it from the main thread: the kernel watches the thread that forked.
    """
    who = "-" if owner is None else f"{owner.uid}:{owner.gid}"
    wrapped = [sys.executable, "-I", "-S", str(ATTACH), str(int(death_signal)), str(os.getpid()), who, *argv]
    with contextlib.ExitStack() as stack:
        if isinstance(log, Path):
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
        else:
            descriptor = log
        return subprocess.Popen(
            wrapped,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )


def identify(pid: int) -> Identity | None:
    """The process that has this number now; None where there is none or it is a zombie."""
    try:
        if sys.platform == "linux":
            # the command's name may hold spaces and brackets: fields are counted from the last bracket
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return None if fields[0] in "ZX" else Identity(pid, float(fields[19]))
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return Identity(pid, process.create_time())
    except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        return None


def alive(identity: Identity) -> bool:
    """Whether this very process still runs."""
    return identify(identity.pid) == identity


def working_in(folder: Path) -> list[Identity]:
    """The processes whose working directory is `folder`: both servers move into their data folder, so this
    finds theirs, children included, whatever a pid file says. Other users' processes show to root alone."""
    found: list[Identity] = []
    wanted = os.path.realpath(folder)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.cwd() == wanted and (identity := identify(process.pid)):
                found.append(identity)
    return found


def send(identity: Identity, number: int, *, group: bool = False) -> None:
    """Signal this very process (or its group), and nobody else who has its number now."""
    if not alive(identity):
        return
    with contextlib.suppress(ProcessLookupError):
        if group and os.getpgid(identity.pid) == identity.pid:
            os.killpg(identity.pid, number)
        else:
            os.kill(identity.pid, number)


def wait_gone(identities: Iterable[Identity], seconds: float) -> list[Identity]:
    """Those that are still there after at most `seconds`."""
    left = list(identities)
    deadline = time.monotonic() + seconds
    while left := [one for one in left if alive(one)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.02)
    return left


def end(identities: Iterable[Identity], *, stop_signal: int, grace: float, group: bool = False) -> None:
    """Ask with `stop_signal`, wait `grace` seconds, then kill what is left and wait for that."""
    asked = list(identities)
    for identity in asked:
        send(identity, stop_signal, group=group)
    left = wait_gone(asked, grace)
    for identity in left:
        send(identity, signal.SIGKILL, group=group)
    wait_gone(left, 5)
