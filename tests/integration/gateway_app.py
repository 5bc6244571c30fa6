"""The real gateway on a free port inside the test's process, on real servers, with keys for two tenants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from openai import OpenAI

from services.gateway.main import create_app
from services.gateway.server import make_server
from shared import bootstrap
from shared.db import Connection
from shared.settings import Settings
from shared.worker import Platform, open_platform

PEPPER = "pepper-for-tests"


class RunningGateway:
    """A started gateway; `acme` and `rival` are tenants with a key each, `operator` is a key of the default."""

    def __init__(self, platform: Platform, url: str) -> None:
        self.platform = platform
        self.url = url
        self.tenants: dict[str, UUID] = {}
        self.keys: dict[str, str] = {}
        for name, role in (("default", "operator"), ("acme", "tenant"), ("rival", "tenant")):
            with platform.db.core() as c:
                tenant = bootstrap.create_tenant(c, name)
                _, key = bootstrap.create_key(c, tenant, name, role, PEPPER)
            self.tenants[name] = tenant
            self.keys["operator" if role == "operator" else name] = key

    def http(self, key: str | None = "acme", **headers: str) -> httpx.Client:
        """A plain client with the key of this name, or with none."""
        auth = {"authorization": f"Bearer {self.keys[key]}"} if key else {}
        return httpx.Client(base_url=self.url, headers={**auth, **headers}, timeout=30)

    def openai(self, key: str = "acme", **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.keys[key], timeout=30, **options)

    @contextmanager
    def as_tenant(self, name: str = "acme") -> Iterator[Connection]:
        with self.platform.db.transaction(self.tenants[name]) as connection:
            yield connection

    def add_model(self, name: str, tenant: str = "acme", **values: Any) -> None:
        """A model row as training leaves it; its artifact exists nowhere."""
        row = {"kind": "base", "artifact": "sha256:" + "a" * 64, "base_artifact": None, "base_id": None}
        row |= values
        with self.as_tenant(tenant) as c:
            c.execute(
                "INSERT INTO training.model (tenant_id, id, kind, artifact, base_artifact, base_id) "
                "VALUES (%s, %s, %s, %s, %s, %s)",
                (
                    self.tenants[tenant],
                    name,
                    row["kind"],
                    row["artifact"],
                    row["base_artifact"],
                    row["base_id"],
                ),
            )

    def add_version(self, version: str, *, passed: bool = True, tenant: str = "acme") -> None:
        """A dataset `service` with one version as data governance leaves it."""
        gate = {"passed": passed, "reasons": [] if passed else ["min_rows is 3, below the limit of 10"]}
        with self.as_tenant(tenant) as c:
            c.execute(
                "INSERT INTO data_governance.dataset (id, tenant_id, name) VALUES (%s, %s, 'service') "
                "ON CONFLICT DO NOTHING",
                (f"ds-{tenant}", self.tenants[tenant]),
            )
            c.execute(
                "INSERT INTO data_governance.version (tenant_id, id, dataset_id, job_id, artifact, rows, train_rows,"
                " validation_rows, gate_passed, gate, report) VALUES (%s, %s, %s, 'dsjob-1', %s, 3, 2, 1, %s, "
                "to_json(%s::text)::jsonb, '{\"rows_in\": 4}')",
                (self.tenants[tenant], version, f"ds-{tenant}", "sha256:" + "b" * 64, passed, ""),
            )
            c.execute(
                "UPDATE data_governance.version SET gate = %s::jsonb WHERE id = %s",
                (json.dumps(gate), version),
            )


@contextmanager
def running_gateway(
    database_url: str, redis_url: str, home: Path, **settings: Any
) -> Iterator[RunningGateway]:
    """Start, yield, stop; whatever the test left in flight is cut after a second."""
    base = Settings(
        home=home,
        database_url=database_url,
        redis_url=redis_url,
        key_pepper=PEPPER,
        gateway_port=0,
        test_faults=True,
        drain_seconds=1,
        live_deadline_seconds=20,
    )
    with _served(replace(base, **settings)) as (platform, url):
        yield RunningGateway(platform, url)


@contextmanager
def neighbour(gateway: RunningGateway, **settings: Any) -> Iterator[str]:
    """The address of one more gateway on the same servers, with the same keys."""
    with _served(replace(gateway.platform.settings, **settings)) as (_, url):
        yield url


@contextmanager
def _served(settings: Settings) -> Iterator[tuple[Platform, str]]:
    platform = open_platform(settings, "gateway", max_connections=16)
    server = make_server(create_app(platform))
    thread = threading.Thread(target=server.run, name="gateway")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the gateway did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield platform, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        platform.close()
