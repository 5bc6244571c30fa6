"""The platform's processes on one machine, with small stand-ins for the services and real servers."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import psutil
import psycopg
import pytest
import redis

from deploy import embedded, folders, local, processes
from deploy.embedded import Server
from deploy.table import Spec, server_spec
from shared.errors import HeliuError
from shared.settings import Settings
from tests.servers import RunningServer, valkey_server

SERVICE = """
import os, pathlib, signal, subprocess, sys, time
mode = sys.argv[1]
if mode == "falls":
    print("the reason it fell", file=sys.stderr)
    sys.exit(3)
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "parent":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    pathlib.Path(os.environ["HELIU_HOME"], "child").write_text(str(child.pid))
if mode == "drains":
    def drain(*_):
        pathlib.Path(os.environ["HELIU_HOME"], "drained." + os.environ["HELIU_WORKER_INDEX"]).touch()
        sys.exit(0)
    signal.signal(signal.SIGTERM, drain)
print("ready", os.environ["HELIU_WORKER_INDEX"], flush=True)
pathlib.Path(os.environ["HELIU_READY_FILE"]).write_text("127.0.0.1:1" if mode == "tells" else "")
while True:
    time.sleep(600)
"""
ENVIRON = {key: value for key, value in os.environ.items() if not key.startswith("HELIU_")}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    local.down(home)
    cluster = folders.recorded_cluster(home)
    if cluster is not None and not cluster.is_relative_to(home):
        folders.remove(cluster.parent)  # as root it lies outside, where pytest does not clean


@pytest.fixture
def elsewhere(postgres: RunningServer, valkey: RunningServer) -> dict[str, str]:
    """Settings that put the platform on servers which run already."""
    return {**ENVIRON, "HELIU_DATABASE_URL": postgres.url, "HELIU_REDIS_URL": valkey.url}


def service(name: str, mode: str = "drains", **more: object) -> Spec:
    return Spec(name, (sys.executable, "-c", SERVICE, mode), **{"scalable": True, "grace": 20.0, **more})  # type: ignore[arg-type]


def only_these(*specs: Spec) -> local.Specs:
    def build(servers: Sequence[Server], settings: Settings) -> tuple[Spec, ...]:
        return specs

    return build


def with_servers(*specs: Spec) -> local.Specs:
    def build(servers: Sequence[Server], settings: Settings) -> tuple[Spec, ...]:
        return (*map(server_spec, servers), *specs)

    return build


def eventually(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.02)


def state_of(home: Path, name: str) -> str:
    return next((p.state for p in local.status(home).processes if p.name == name), "gone")


def pid_of(home: Path, name: str) -> int:
    found = next(p.pid for p in local.status(home).processes if p.name == name)
    assert found is not None
    return found


def everything_of(home: Path) -> list[processes.Identity]:
    pids = [p.pid for p in local.status(home).processes if p.pid]
    every = [
        one for pid in pids for one in (pid, *(c.pid for c in psutil.Process(pid).children(recursive=True)))
    ]
    return [identity for pid in every if (identity := processes.identify(pid))]


def test_up_starts_real_servers_and_data_survives_down_and_up(home: Path) -> None:
    seen: list[str] = []
    build = with_servers(service("worker", needs=("postgres", "valkey")))
    up = local.up(
        home, specs=build, environ=ENVIRON, on_progress=lambda s: seen.extend(p.state for p in s.processes)
    )
    assert {p.name: p.state for p in up.processes} == {
        "postgres": "ready",
        "valkey": "ready",
        "worker.1": "ready",
    }
    assert "starting" in seen
    assert all(p.memory_mb > 0 for p in up.processes)
    env = local.environment(home)
    with psycopg.connect(env["HELIU_DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    with redis.Redis.from_url(env["HELIU_REDIS_URL"]) as client:
        assert client.ping()
    everything = everything_of(home)

    after = local.down(home)
    assert not after.running
    assert not any(processes.alive(one) for one in everything)
    assert not embedded.database_answers(env["HELIU_DATABASE_URL"])

    local.up(home, specs=build, environ=ENVIRON)
    with psycopg.connect(local.environment(home)["HELIU_DATABASE_URL"]) as connection:
        assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


def test_a_killed_supervisor_takes_everything_with_it_and_up_works_again(home: Path) -> None:
    build = with_servers(service("worker", "deaf", grace=0.5))
    local.up(home, specs=build, environ=ENVIRON)
    everything = everything_of(home)
    assert len(everything) >= 5  # Postgres has children of its own
    os.kill(int(psutil.Process(pid_of(home, "worker.1")).ppid()), signal.SIGKILL)
    eventually(lambda: not any(processes.alive(one) for one in everything))
    assert not local.status(home).running
    assert local.up(home, specs=build, environ=ENVIRON).settled


def test_a_leftover_postgres_and_a_foreign_pid_file_do_not_stop_the_next_up(home: Path) -> None:
    build = with_servers()
    local.up(home, specs=build, environ=ENVIRON)
    local.down(home)
    data = folders.recorded_cluster(home)
    assert data is not None
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n0\n5432\n\n\n0 0\nready\n")
    local.up(home, specs=build, environ=ENVIRON)
    os.kill(pid_of(home, "postgres"), signal.SIGKILL)
    eventually(lambda: next(p.restarts for p in local.status(home).processes if p.name == "postgres") == 1)
    eventually(lambda: state_of(home, "postgres") == "ready")


def test_a_fallen_process_is_restarted(home: Path, elsewhere: dict[str, str]) -> None:
    local.up(home, specs=only_these(service("worker")), environ=elsewhere)
    first = pid_of(home, "worker.1")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: [(p.state, p.pid != first) for p in local.status(home).processes] == [("ready", True)])
    assert local.status(home).processes[0].restarts == 1


def test_a_process_that_never_starts_fails_up_with_its_last_words(
    home: Path, elsewhere: dict[str, str]
) -> None:
    with pytest.raises(HeliuError, match="the reason it fell"):
        local.up(home, specs=only_these(service("worker", "falls"), service("other")), environ=elsewhere)
    assert not local.is_running(home)


def test_a_failed_task_fails_up_and_nothing_that_needs_it_starts(
    home: Path, elsewhere: dict[str, str]
) -> None:
    task = Spec("migrate", (sys.executable, "-c", "raise SystemExit('no such column')"), "task")
    with pytest.raises(HeliuError, match="no such column"):
        local.up(home, specs=only_these(task, service("worker", needs=("migrate",))), environ=elsewhere)
    assert not (home / "logs" / "worker.1.log").exists()


def test_scale_adds_at_once_and_drains_the_highest_on_the_way_down(
    home: Path, elsewhere: dict[str, str]
) -> None:
    local.up(home, specs=only_these(service("inference")), environ=elsewhere)
    local.scale(home, "inference", 3)
    eventually(lambda: [p.state for p in local.status(home).processes] == ["ready"] * 3)
    local.scale(home, "inference", 1)
    eventually(lambda: [p.name for p in local.status(home).processes] == ["inference.1"])
    assert {path.name for path in home.glob("drained.*")} == {"drained.2", "drained.3"}


def test_scaling_what_cannot_be_scaled_is_refused_with_what_can(home: Path) -> None:
    local.up(
        home, specs=only_these(service("inference"), service("gateway", scalable=False)), environ=ENVIRON
    )
    with pytest.raises(HeliuError, match="inference can"):
        local.scale(home, "gateway", 2)


def test_a_process_that_does_not_drain_is_killed_after_its_grace(
    home: Path, elsewhere: dict[str, str]
) -> None:
    deaf = service("deaf", "deaf", grace=0.2, hard_signal=int(signal.SIGKILL))
    local.up(home, specs=only_these(deaf), environ=elsewhere)
    everything = everything_of(home)
    local.down(home)
    assert not any(processes.alive(one) for one in everything)


def test_down_stops_stage_after_stage(home: Path, elsewhere: dict[str, str]) -> None:
    local.up(home, specs=only_these(service("late", stage=1), service("early", stage=0)), environ=elsewhere)
    order: list[str] = []

    def watch(status: local.Status) -> None:
        order.extend(p.name for p in status.processes if p.state == "stopped" and p.name not in order)

    local.down(home, on_progress=watch)
    late, early = home / "drained.1", (home / "logs" / "supervisor.1.log").read_text()
    assert late.exists()
    assert early.index("process_stopped early.1") < early.index("process_stopping late.1")


def test_what_a_killed_worker_leaves_is_ended_by_down(home: Path, elsewhere: dict[str, str]) -> None:
    local.up(home, specs=only_these(service("worker", "parent")), environ=elsewhere)
    child = processes.identify(int((home / "child").read_text()))
    assert child is not None
    os.kill(pid_of(home, "worker.1"), signal.SIGKILL)
    eventually(lambda: local.status(home).processes[0].restarts == 1)
    local.down(home)
    assert not processes.alive(child)


def test_one_process_is_stopped_and_started_by_name(home: Path, elsewhere: dict[str, str]) -> None:
    local.up(home, specs=only_these(service("worker", count=2)), environ=elsewhere)
    local.stop_process(home, "worker.2")
    eventually(lambda: state_of(home, "worker.2") == "stopped")
    assert state_of(home, "worker.1") == "ready"
    local.start_process(home, "worker.2")
    eventually(lambda: state_of(home, "worker.2") == "ready")


def test_up_and_down_may_be_repeated(home: Path, elsewhere: dict[str, str]) -> None:
    build = only_these(service("worker"))
    assert not local.down(home).running
    local.up(home, specs=build, environ=elsewhere)
    before = pid_of(home, "worker.1")
    local.up(home, specs=build, environ=elsewhere)
    assert pid_of(home, "worker.1") == before
    local.down(home)
    assert not local.down(home).running


def test_an_up_that_was_killed_midway_does_not_stop_the_next(home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from deploy import local; from deploy.table import server_spec\n"
        "local.up(Path(sys.argv[1]), specs=lambda servers, settings: tuple(map(server_spec, servers)))"
    )
    client = subprocess.Popen([sys.executable, "-c", code, str(home)], env=ENVIRON, stderr=subprocess.DEVNULL)
    eventually(
        lambda: bool((cluster := folders.recorded_cluster(home)) and any(cluster.parent.glob("data*")))
    )
    client.kill()
    client.wait()
    assert local.up(home, specs=with_servers(), environ=ENVIRON).settled


def test_two_ups_at_once_end_with_one_platform(home: Path, elsewhere: dict[str, str]) -> None:
    build = only_these(service("worker"))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: local.up(home, specs=build, environ=elsewhere), range(2)))
    assert both[0].processes[0].pid == both[1].processes[0].pid


def test_a_gateway_port_that_was_asked_for_and_is_taken_is_refused(
    home: Path, elsewhere: dict[str, str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environ = {**elsewhere, "HELIU_GATEWAY_PORT": str(taken.getsockname()[1])}
        with pytest.raises(HeliuError, match="is taken"):
            local.up(home, specs=only_these(), environ=environ)


def test_logs_are_read_by_service(home: Path, elsewhere: dict[str, str]) -> None:
    local.up(home, specs=only_these(service("worker", count=2)), environ=elsewhere)
    assert list(local.read_logs(home, "worker")) == [("worker.1", "ready 1"), ("worker.2", "ready 2")]


def test_secrets_state_and_sockets_are_private(home: Path, elsewhere: dict[str, str]) -> None:
    local.up(home, specs=only_these(service("worker")), environ=elsewhere)
    private = [home / "secrets.json", home / "run" / "table.json", home / "run" / "state.json"]
    private += [
        home / "run" / "control",
        home / "logs" / "worker.1.log",
        home / "run",
        home / "logs",
        home / "keys",
    ]
    assert [path.name for path in private if path.exists() and path.stat().st_mode & 0o077] == []
    assert "postgres_password" not in (home / "run" / "state.json").read_text()


def test_a_home_with_a_long_path_gets_short_sockets_that_down_removes(tmp_path: Path) -> None:
    home = tmp_path / ("long-" * 20) / "home"
    up = local.up(home, specs=with_servers(service("worker")), environ=ENVIRON)
    try:
        sockets = [Path(record.read_text()) for record in (home / "run").glob("*_sockets")]
        assert up.settled
        assert len(sockets) == 3 or os.geteuid() == 0
        assert all(folder.stat().st_mode & 0o077 == 0 for folder in sockets)
    finally:
        local.down(home)
    assert not any(folder.exists() for folder in sockets)
    cluster = folders.recorded_cluster(home)
    if cluster is not None and not cluster.is_relative_to(home):
        folders.remove(cluster.parent)


def test_an_evicting_redis_is_refused_at_start(home: Path) -> None:
    with valkey_server() as valkey:
        with redis.Redis.from_url(valkey.url) as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        environ = {**ENVIRON, "HELIU_REDIS_URL": valkey.url}
        with pytest.raises(HeliuError, match="noeviction"):
            local.up(home, specs=only_these(), environ=environ)


def test_open_doors_on_the_network_are_refused(home: Path) -> None:
    environ = {**ENVIRON, "HELIU_AUTH": "off", "HELIU_GATEWAY_HOST": "0.0.0.0"}
    with pytest.raises(HeliuError, match=r"127\.0\.0\.1"):
        local.up(home, specs=only_these(), environ=environ)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands Postgres to another user")
def test_as_root_postgres_runs_as_nobody_and_outside_of_a_closed_home(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    before = tmp_path.stat().st_mode, closed.stat().st_mode
    home = closed / "home"
    up = local.up(home, specs=with_servers(), environ=ENVIRON)
    try:
        assert psutil.Process(pid_of(home, "postgres")).username() == "nobody"
        folder = Path(up.servers["postgres"]["folder"])
        assert not folder.is_relative_to(home)
        assert "elsewhere" in up.servers["postgres"]["note"]
        assert folder.parent.stat().st_mode & 0o077 == 0
        assert (tmp_path.stat().st_mode, closed.stat().st_mode) == before
    finally:
        local.down(home)
        folders.remove(folder.parent)


def test_whoever_asks_what_runs_neither_hides_nor_blocks_a_supervisor(home: Path) -> None:
    folders.make_home(home)
    path = home / "run" / "supervisor.lock"
    with path.open("a") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        assert not local.is_running(home)
        with ThreadPoolExecutor(1) as pool:
            started = pool.submit(folders.take_lock, path, patience=30.0)
            fcntl.flock(look, fcntl.LOCK_UN)
            lock = started.result()
    assert lock is not None
    with lock:
        assert local.is_running(home)


def test_the_log_of_a_worker_that_is_added_is_followed(home: Path, elsewhere: dict[str, str]) -> None:
    local.up(home, specs=only_these(service("inference")), environ=elsewhere)
    followed = local.read_logs(home, "inference", follow=True)
    assert next(followed) == ("inference.1", "ready 1")
    local.scale(home, "inference", 2)
    assert next(followed) == ("inference.2", "ready 2")


def test_status_tells_where_the_metrics_of_a_process_are(home: Path, elsewhere: dict[str, str]) -> None:
    local.up(home, specs=only_these(service("worker", "tells")), environ=elsewhere)
    assert local.status(home).as_json()["processes"][0]["metrics"] == "http://127.0.0.1:1/metrics"


def test_a_worker_that_cannot_start_ends_the_wait_for_it_and_no_other_does(
    home: Path, elsewhere: dict[str, str]
) -> None:
    flag = home / "broken"
    broken = "import os, sys\nif os.path.exists(sys.argv[2]): sys.exit('the reason it fell')\n" + SERVICE
    spec = Spec("worker", (sys.executable, "-c", broken, "drains", str(flag)), scalable=True, grace=20.0)
    local.up(home, specs=only_these(spec, service("other")), environ=elsewhere)
    flag.touch()
    local.scale(home, "worker", 2)
    with pytest.raises(HeliuError, match="the reason it fell"):
        local.wait_scaled(home, {"worker"})
    local.scale(home, "other", 2)
    assert sum(p.service == "other" for p in local.wait_scaled(home, {"other"}).processes) == 2


def test_a_down_that_comes_late_leaves_a_new_platform_alone(home: Path) -> None:
    local.up(home, specs=with_servers(), environ=ENVIRON)
    before = [p.pid for p in local.status(home).processes]
    with mock.patch.object(local, "is_running", side_effect=[False, True]):
        local.down(home)
    assert [p.pid for p in local.status(home).processes] == before
    assert all(p.restarts == 0 for p in local.status(home).processes)


def test_up_of_what_a_running_platform_does_not_have_is_refused(
    home: Path, elsewhere: dict[str, str]
) -> None:
    build = only_these(service("gateway"), service("inference"))
    local.up(home, specs=build, environ=elsewhere, only=["gateway"])
    assert local.up(home, specs=build, environ=elsewhere, only=["gateway"]).settled
    with pytest.raises(HeliuError, match="without inference"):
        local.up(home, specs=build, environ=elsewhere, only=["gateway", "inference"])
    assert local.is_running(home)
