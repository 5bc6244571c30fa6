"""What `up` is about to start here: which servers are ours, which port, which environment. Starts nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from deploy import embedded, folders
from deploy.embedded import Server
from deploy.table import Spec, Table, narrow, platform_specs
from shared.errors import ConfigurationError
from shared.settings import Settings, read_settings

PROJECT = Path(__file__).resolve().parent.parent
NOT_PASSED_ON = ("HELIU_API_KEY", "HELIU_READY_FILE", "HELIU_WORKER_INDEX", "HELIU_WORKER_NAME")

Specs = Callable[[Sequence[Server], Settings], tuple[Spec, ...]]


def whole_platform(servers: Sequence[Server], settings: Settings) -> tuple[Spec, ...]:
    return platform_specs(servers, drain_seconds=settings.drain_seconds)


def read_local_settings(environ: Mapping[str, str]) -> Settings:
    """The settings, where they can hold for several processes on one machine; raises ConfigurationError."""
    settings = read_settings(environ)
    if settings.metrics_port:
        raise ConfigurationError(
            f"HELIU_METRICS_PORT={settings.metrics_port} is for a process on its own; here several share the machine "
            "and each takes a free port, which `heliu status --json` tells. Unset it",
            param="HELIU_METRICS_PORT",
        )
    return settings


def prepare(
    home: Path, environ: Mapping[str, str], *, specs: Specs, only: Iterable[str] | None = None
) -> Table:
    """Prepare the servers that are ours, check those that are not, and lay down the table.

    Raises ConfigurationError for a setting that is wrong or unsafe, InvalidInput for an unknown name in `only`.
    """
    settings = read_local_settings(environ)
    passwords = folders.read_secrets(home)
    servers: list[Server] = []
    database_url, redis_url = settings.database_url, settings.redis_url
    if not database_url:
        servers.append(embedded.prepare_postgres(home, passwords["postgres_password"]))
        database_url = servers[-1].url
    elif not embedded.database_answers(database_url):
        raise ConfigurationError(
            "the Postgres at HELIU_DATABASE_URL does not let us in; check address, user and password, or unset it "
            "to use the embedded one",
            param="HELIU_DATABASE_URL",
        )
    if not redis_url:
        servers.append(embedded.prepare_valkey(home, passwords["valkey_password"]))
        redis_url = servers[-1].url
    else:
        embedded.check_redis_policy(redis_url)
    port = _gateway_port(home, settings, environ)
    host = settings.gateway_host if settings.gateway_host not in ("0.0.0.0", "::") else "127.0.0.1"
    gateway = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    otlp_port = settings.otlp_port or embedded.free_port()
    token = settings.otlp_token or passwords["otlp_token"]
    env = {key: value for key, value in environ.items() if key not in NOT_PASSED_ON}
    env |= {
        "HELIU_HOME": str(home),
        "HELIU_DATABASE_URL": database_url,
        "HELIU_REDIS_URL": redis_url,
        "HELIU_ARTIFACTS": _artifacts(home, settings),
        "HELIU_GATEWAY_HOST": settings.gateway_host,
        "HELIU_GATEWAY_PORT": str(port),
        "HELIU_GATEWAY_URL": gateway,
        "HELIU_OTLP_PORT": str(otlp_port),
        "HELIU_OTLP_TOKEN": token,
        "HELIU_OTLP_ENDPOINT": settings.otlp_endpoint or f"http://127.0.0.1:{otlp_port}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), environ.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
    }
    wanted = specs(servers, settings)
    return Table(wanted if only is None else narrow(wanted, only), env, gateway)


def _artifacts(home: Path, settings: Settings) -> str:
    if settings.artifacts_in_s3:
        return settings.artifacts
    return str(settings.artifact_folder.resolve() if settings.artifacts else home / "artifacts")


def _gateway_port(home: Path, settings: Settings, environ: Mapping[str, str]) -> int:
    """The port that was asked for, else the one of the last time, else 8000, else any that is free."""
    record = home / "gateway_port"
    if "HELIU_GATEWAY_PORT" in environ and settings.gateway_port:
        if not is_free(settings.gateway_host, settings.gateway_port):
            raise ConfigurationError(
                f"port {settings.gateway_port} of {settings.gateway_host} is taken; free it, or set "
                "HELIU_GATEWAY_PORT to another (unset: a free one is found)",
                param="HELIU_GATEWAY_PORT",
            )
        return settings.gateway_port
    earlier = record.read_text().strip() if record.exists() else ""
    candidates = (int(earlier) if earlier.isdecimal() else 0, settings.gateway_port)
    port = next((p for p in candidates if p and is_free(settings.gateway_host, p)), 0) or embedded.free_port()
    folders.write_private(record, f"{port}\n")
    return port


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
