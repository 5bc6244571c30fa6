"""What is missing or wrong on this machine, and the mend for each. Changes nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg

from deploy import embedded, folders, local, processes
from deploy.plan import is_free, read_local_settings
from shared.errors import HeliuError
from shared.migrate import pending
from shared.settings import Settings

DISK_GB = 5
PRIVATE = ("secrets.json", "keys", "keys/default.json", "keys/operator.json", "run", "logs", "artifacts")


@dataclass(frozen=True)
class Check:
    """One finding; `mend` says what to do where `ok` is false."""

    name: str
    ok: bool
    detail: str
    mend: str = ""


def examine(home: Path, environ: Mapping[str, str]) -> list[Check]:
    """Every check that makes sense now; those of running parts only while the platform runs."""
    home = home.resolve()
    checks = [_python(), *_libraries()]
    try:
        settings = read_local_settings(environ)
    except HeliuError as exc:
        return [*checks, Check("settings", False, exc.message, f"correct {exc.param or 'the environment'}")]
    checks.append(Check("settings", True, f"{sum(k.startswith('HELIU_') for k in environ)} set"))
    checks += [*_servers(settings), _disk(home), _permissions(home)]
    if local.is_running(home):
        checks += _running(home)
    else:
        checks += [_leftovers(home), _port(settings)]
    return [*checks, *_abandoned()]


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= (3, 11), found, "install Python 3.11 or newer")


def _libraries() -> Iterator[Check]:
    needed = {
        "models": (("torch", "transformers", "peft", "trl"), "training and inference"),
        "data": (("duckdb", "polars", "rensa", "opencc"), "data governance"),
    }
    for extra, (names, what) in needed.items():
        for name in names:
            found = importlib.util.find_spec(name) is not None
            detail = "installed" if found else f"missing: {what} cannot run here"
            yield Check(name, found, detail, f"pip install 'heliu[{extra}]'")


def _servers(settings: Settings) -> Iterator[Check]:
    """The binaries of embedded servers, or the answer of one's own."""
    if settings.database_url:
        ok = embedded.database_answers(settings.database_url)
        yield Check("postgres", ok, "answers" if ok else "does not let us in", "check HELIU_DATABASE_URL")
    else:
        yield _try("postgres", lambda: f"embedded, {embedded.postgres_folder()}")
    if settings.redis_url:
        yield _try("redis", lambda: _policy(settings.redis_url))
    else:
        yield _try("valkey", lambda: f"embedded, {embedded.valkey_binary()}")


def _policy(url: str) -> str:
    embedded.check_redis_policy(url)
    return "answers, evicts nothing"


def _try(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except HeliuError as exc:
        problem, _, mend = exc.message.partition("; ")
        return Check(name, False, problem, mend)


def _disk(home: Path) -> Check:
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free / 1e9
    mend = f"free some space, or set HELIU_HOME to a disk with {DISK_GB} GB or more"
    return Check("disk", free >= DISK_GB, f"{free:.1f} GB free at {there}", mend)


def _permissions(home: Path) -> Check:
    there = [home / name for name in PRIVATE if (home / name).exists()]
    open_ones = [path for path in there if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if not open_ones:
        return Check("permissions", True, f"{len(there)} private files and folders in {home}")
    names = " ".join(map(str, open_ones))
    return Check("permissions", False, f"others may read {names}", f"chmod go-rwx {names}")


def _leftovers(home: Path) -> Check:
    cluster = folders.recorded_cluster(home)
    left = [one for folder in (cluster, home / "valkey") if folder for one in processes.working_in(folder)]
    detail = (
        f"processes {', '.join(str(one.pid) for one in left)} outlived their supervisor" if left else "none"
    )
    return Check("leftovers", not left, detail, f"HELIU_HOME={home} heliu down")


def _port(settings: Settings) -> Check:
    free = is_free(settings.gateway_host, settings.gateway_port)
    where = f"{settings.gateway_host}:{settings.gateway_port}"
    asked = "HELIU_GATEWAY_PORT" in os.environ
    detail = f"{where} is free" if free else f"{where} is taken" + ("" if asked else "; up will take another")
    return Check("gateway port", free or not asked, detail, "set HELIU_GATEWAY_PORT to another, or unset it")


def _running(home: Path) -> Iterator[Check]:
    now = local.status(home)
    for process in now.processes:
        ok = process.state in ("ready", "done")
        detail = f"{process.state}, {process.restarts} restarts"
        yield Check(process.name, ok, detail, f"heliu logs {process.service}")
    env = local.environment(home)
    database = embedded.database_answers(env["HELIU_DATABASE_URL"])
    yield Check("database answers", database, "yes" if database else "no", "heliu logs postgres")
    if database:
        yield _migrations(env["HELIU_DATABASE_URL"])
    yield _try("redis policy", lambda: _policy(env["HELIU_REDIS_URL"]))
    if any(process.service == "gateway" for process in now.processes):
        yield _gateway(now.gateway)


def _migrations(url: str) -> Check:
    try:
        missing = pending(url)
    except psycopg.Error as exc:
        return Check("migrations", False, str(exc).strip(), "heliu logs postgres")
    return Check("migrations", not missing, ", ".join(missing) or "current", "heliu down && heliu up")


def _gateway(address: str) -> Check:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as reply:
            return Check("gateway answers", True, f"{address}/readyz: {reply.status}")
    except (urllib.error.URLError, OSError) as exc:
        return Check("gateway answers", False, f"{address}/readyz: {exc}", "heliu logs gateway")


def _abandoned() -> Iterator[Check]:
    """Clusters that root keeps outside of a home which is gone."""
    if os.geteuid() != 0:
        return
    for mark in folders.OUTSIDE.glob("*/home"):
        if not Path(mark.read_text()).exists():
            detail = f"{mark.parent} belongs to {mark.read_text()}, which is gone"
            yield Check("abandoned cluster", False, detail, f"rm -r {mark.parent}")
