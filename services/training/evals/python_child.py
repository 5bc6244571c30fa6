"""Runs somebody else's grader: a script by itself, standard library alone, started with `python -I -S`.

Before the source is compiled, the process gives up what it does not need: files but Python's own (Landlock), the
network (a namespace of its own where the kernel lets it, Landlock's TCP rules, and an audit hook), more memory, more
files, more processes. It is a sandbox of the operating system's, and no virtual machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import math
import os
import resource
import struct
import sys
from typing import Any, BinaryIO

CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE = 38, 4
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
# Rights over files by the version of Landlock that knows them (linux/landlock.h).
FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
READ_FILE, READ_DIR = 1 << 2, 1 << 3
NET_RIGHTS = 0b11
# Signals to others, and their abstract sockets.
SCOPES = 0b11
REFUSED = (
    *("socket.", "subprocess.", "ctypes.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.spawn"),
    *("os.kill", "signal.pthread_kill"),
)
LONGEST_ERROR = 500
BUILTINS_GONE = ("open", "input", "breakpoint", "exit", "quit")


def main() -> int:
    replies = os.fdopen(os.dup(1), "wb")
    asked = sys.stdin.buffer
    first = json.loads(asked.readline())
    problem = _lock_up(first["memory_mb"])
    if problem is None:
        # What a grader prints goes nowhere.
        sys.stdout = io.StringIO()
        sys.addaudithook(_refuse)
        problem, grade = _compiled(first["source"])
    _say(replies, {"ready": problem is None, "error": problem})
    if problem is not None:
        return 0
    for line in asked:
        values = json.loads(line)
        _say(replies, _graded(grade, values["sample"], values["item"]))
    return 0


def _say(replies: BinaryIO, told: dict[str, Any]) -> None:
    replies.write(json.dumps(told).encode() + b"\n")
    replies.flush()


def _compiled(source: str) -> tuple[str | None, Any]:
    space: dict[str, Any] = {"__name__": "grader", "__builtins__": _builtins()}
    try:
        exec(compile(source, "grader", "exec", dont_inherit=True), space)
    except BaseException as exc:  # noqa: BLE001 - whatever somebody else's code raises
        return f"the source failed when it was loaded: {_told(exc)}", None
    grade = space.get("grade")
    if not callable(grade):
        return "the source defines no function grade(sample, item)", None
    return None, grade


def _builtins() -> dict[str, Any]:
    import builtins

    return {name: value for name, value in vars(builtins).items() if name not in BUILTINS_GONE}


def _graded(grade: Any, sample: Any, item: Any) -> dict[str, Any]:
    try:
        value = grade(sample, item)
    except BaseException as exc:  # noqa: BLE001 - as above
        return {"error": _told(exc)}
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return {"score": float(value)}
    return {"error": f"grade() must return a finite number, got {_short(value)}"}


def _told(exc: BaseException) -> str:
    line = None
    trace = exc.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "grader":
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f" (line {line})" if line is not None else ""
    said = ""
    with contextlib.suppress(Exception):
        said = f": {exc}" if str(exc) else ""
    return f"{type(exc).__name__}{said}"[:LONGEST_ERROR] + where


def _short(value: Any) -> str:
    try:
        return repr(value)[:80]
    except Exception:  # noqa: BLE001 - a repr of somebody else's
        return type(value).__name__


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event.startswith(REFUSED):
        raise PermissionError(f"a grader may not use {event}")
    if event == "import" and str(args[0]).partition(".")[0] in ("ctypes", "_ctypes", "_posixsubprocess"):
        raise PermissionError(f"a grader may not import {args[0]}")


def _lock_up(memory_mb: int) -> str | None:
    """Why it cannot be done; None when all is given up."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Best effort: a container may forbid namespaces, and what Landlock and the hook refuse is refused anyway.
    libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return "this kernel has no PR_SET_NO_NEW_PRIVS"
    version = libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return "this kernel has no Landlock, without which graders are not run"
    _restrict(libc, version)
    for what, limit in (
        (resource.RLIMIT_AS, memory_mb * 1024 * 1024),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(what, (limit, limit))
    return None


def _restrict(libc: Any, version: int) -> None:
    """From here on files can be read below Python's own library alone, and TCP neither bound nor connected."""
    files = (1 << FS_RIGHTS[min(version, 5)]) - 1
    attributes = struct.pack("<QQQ", files, NET_RIGHTS, SCOPES)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = libc.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    for folder in {path for path in sys.path if os.path.isdir(path)}:
        opened = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        below = struct.pack("<Qi", READ_FILE | READ_DIR, opened)
        if libc.syscall(LANDLOCK_ADD, rules, 1, below, 0) != 0:
            raise OSError(ctypes.get_errno(), "landlock_add_rule")
        os.close(opened)
    if libc.syscall(LANDLOCK_RESTRICT, rules, 0) != 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(rules)


if __name__ == "__main__":
    sys.exit(main())
