"""A gateway with a few models for tests of the registry, and what they all do with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from psycopg.types.json import Jsonb

from shared import bootstrap
from shared.jobs import new_id
from tests import servers
from tests.conftest import TEMPLATE
from tests.integration.gateway_app import PEPPER, RunningGateway, running_gateway

OPEN = {"data_gate": "where_known"}
MODELS = ("one", "two", "three")


@contextmanager
def registry_gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, home: Path, database: str
) -> Iterator[RunningGateway]:
    """On a database of this name; both tenants have MODELS, and `second` is another key of the first."""
    url = servers.new_database(postgres.url, database, template=TEMPLATE)
    with running_gateway(url, valkey.url, home) as running:
        for tenant in ("acme", "rival"):
            for model in MODELS:
                running.add_model(model, tenant=tenant)
        with running.platform.db.core() as c:
            tenant_id = running.tenants["acme"]
            _, running.keys["second"] = bootstrap.create_key(c, tenant_id, "second", "tenant", PEPPER)
        yield running
    servers.drop_database(postgres.url, database)


def gateway_on(database: str) -> tuple[Any, Any]:
    """The fixtures `gateway`, one for all tests of a module, each of which has names of its own, and `http`."""

    @pytest.fixture(scope="module", name="gateway")
    def gateway(
        postgres: servers.RunningServer,
        valkey: servers.RunningServer,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Iterator[RunningGateway]:
        with registry_gateway(postgres, valkey, tmp_path_factory.mktemp("gateway"), database) as running:
            yield running

    @pytest.fixture(name="http")
    def http(gateway: RunningGateway) -> Iterator[httpx.Client]:
        with gateway.http() as client:
            yield client

    return gateway, http


def ok(answer: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def make(http: httpx.Client, name: str, *models: str, gates: dict[str, Any] = OPEN, **more: Any) -> None:
    """A registered model whose versions are in staging."""
    ok(http.post("/v1/registry", json={"name": name, "gates": gates, **more}))
    for number, model in enumerate(models, 1):
        assert ok(http.post(f"/v1/registry/{name}/versions", json={"model": model}))["version"] == number
        ok(http.post(f"/v1/registry/{name}/versions/{number}/stage", json={}))


def promote(http: httpx.Client, name: str, number: int, **body: Any) -> httpx.Response:
    return http.post(f"/v1/registry/{name}/versions/{number}/promote", json=body)


def add_eval(gateway: RunningGateway, eval_id: str) -> str:
    with gateway.as_tenant() as c:
        c.execute(
            "INSERT INTO training.eval (id, tenant_id, name, data_source_config, testing_criteria) "
            "VALUES (%s, %s, 'refunds', '{}', '[]')",
            (eval_id, gateway.tenants["acme"]),
        )
    return eval_id


def add_run(
    gateway: RunningGateway,
    eval_id: str,
    model: str,
    scores: Sequence[float],
    *,
    items_of: tuple[str, str] | None = None,
) -> str:
    """A run as an evaluation leaves it: items in two languages."""
    run, tenant = new_id("evalrun_"), gateway.tenants["acme"]
    with gateway.as_tenant() as c:
        c.execute(
            "INSERT INTO core.job (id, tenant_id, kind, queue, state, payload, max_attempts, max_crashes, finished_at) "
            "VALUES (%s, %s, 'eval.run', 'training.light', 'succeeded', %s, 1, 1, now())",
            (run, tenant, Jsonb({"items": {"id": items_of[0]}} if items_of else {})),
        )
        c.execute(
            "INSERT INTO training.eval_run (id, tenant_id, eval_id, name, model, data_source) "
            "VALUES (%s, %s, %s, 'run', %s, %s)",
            (run, tenant, eval_id, model, Jsonb({"source": {"split": items_of[1]}} if items_of else {})),
        )
        for number, score in enumerate(scores):
            c.execute(
                "INSERT INTO training.eval_item (run_id, item_no, tenant_id, item_key, cluster, passed, score, scores,"
                " slices, body) VALUES (%s, %s, %s, %s, %s, %s, %s, '{}', %s, '{}')",
                (
                    run,
                    number,
                    tenant,
                    f"item-{number}",
                    f"item-{number}",
                    score > 0.5,
                    score,
                    Jsonb({"language": "zh" if number % 2 else "en"}),
                ),
            )
    return run


def checks(decision: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in decision["checks"]}


def ask(http: httpx.Client, model: str, **body: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "hello"}]
    return http.post("/v1/chat/completions", json={"model": model, "messages": messages, **body})
