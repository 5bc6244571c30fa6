"""The gateway while its servers are away, and what it tells of itself."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from openai import OpenAI
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.migrate import migrate
from tests import servers
from tests.integration.gateway_app import RunningGateway, running_gateway

SAMPLED = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
UNSAMPLED = SAMPLED[:-2] + "00"

WORKER = """
INSERT INTO core.worker (id, name, service, pool, queues, host, pid, slots, state, heartbeat_at)
VALUES ('w', 'w', 'inference', 'default', %s, 'h', 1, 1, 'running', now())"""


def test_work_is_accepted_while_redis_is_away(database_url: str, tmp_path: Path) -> None:
    with (
        servers.valkey_server() as valkey,
        running_gateway(database_url, valkey.url, tmp_path) as gateway,
        gateway.http() as http,
    ):
        valkey.kill()
        answer = http.post("/v1/jobs", json={"kind": "noop"})
        assert (answer.status_code, answer.json()["status"]) == (200, "queued")
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["postgres"]) == (200, "ok")
        assert ready.json()["checks"]["redis"] != "ok"
        gateway.add_model("m")
        # A worker that lives, as far as Postgres knows: without one the chat would wait for it.
        with gateway.platform.db.core() as connection:
            connection.execute(WORKER, (["inference.default.live"],))
        chat = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        answer = http.post("/v1/chat/completions", json=chat)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "redis_unavailable")


def test_without_postgres_it_is_alive_not_ready_and_well_again_afterwards(
    redis_url: str, tmp_path: Path
) -> None:
    with servers.postgres_server() as postgres:
        url = servers.new_database(postgres.url, "faults")
        migrate(url)
        with running_gateway(url, redis_url, tmp_path) as gateway, gateway.http() as http:
            assert http.get("/v1/jobs").status_code == 200
            postgres.stop_immediately()
            assert http.get("/healthz").status_code == 200
            ready = http.get("/readyz")
            away = http.post("/v1/jobs", json={"kind": "noop"})
            assert ready.status_code == 503
            assert (away.status_code, away.json()["error"]["code"]) == (503, "database_unavailable")
            # Where the database is, and as whom we go there, is nobody's business.
            for answer in (ready, away):
                assert not re.search(
                    r"socket|port|host|user|/|FATAL", answer.text.replace("application/json", "")
                )
            postgres.start()
            deadline = time.monotonic() + 20
            while http.post("/v1/jobs", json={"kind": "noop"}).status_code != 200:
                assert time.monotonic() < deadline
            assert http.get("/readyz").status_code == 200


def test_a_database_without_its_migrations_is_not_ready(
    postgres: servers.RunningServer, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with running_gateway(database_url, redis_url, tmp_path) as gateway:
        with gateway.platform.db.core() as c:
            c.execute("RESET ROLE")
            c.execute("DELETE FROM heliu_migrations.applied WHERE name LIKE '0002%'")
        ready = gateway.http(None).get("/readyz")
        assert ready.status_code == 503
        assert "0002_services.sql" in ready.json()["checks"]["postgres"]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    return InMemorySpanExporter()


def export_to(gateway: RunningGateway, spans: InMemorySpanExporter) -> None:
    gateway.platform.tracing._provider.add_span_processor(SimpleSpanProcessor(spans))


def test_each_request_is_one_server_span_named_by_its_route(
    database_url: str, redis_url: str, tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    with running_gateway(database_url, redis_url, tmp_path) as gateway:
        export_to(gateway, spans)
        with gateway.http() as http:
            job = http.post("/v1/jobs", json={"kind": "noop"})
            http.get(f"/v1/jobs/{job.json()['id']}")
            http.get("/nowhere")
    servers_ = {s.name: s for s in spans.get_finished_spans() if s.kind.name == "SERVER"}
    assert set(servers_) == {"POST /v1/jobs", "GET /v1/jobs/{job_id}", "GET unmatched"}
    submitted = servers_["POST /v1/jobs"]
    trace = f"{submitted.context.trace_id:032x}"
    assert trace == job.headers["x-trace-id"] == job.json()["trace_id"]
    assert submitted.attributes is not None
    assert submitted.attributes["heliu.tenant"] == str(gateway.tenants["acme"])
    assert submitted.attributes["http.response.status_code"] == 200
    below = [s.name for s in spans.get_finished_spans() if f"{s.context.trace_id:032x}" == trace]
    assert {"authorize", "quota", "send monitoring"} <= set(below)


def test_a_sampled_trace_of_the_caller_goes_on_and_another_is_only_linked(
    database_url: str, redis_url: str, tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    with running_gateway(database_url, redis_url, tmp_path, trace_sample_ratio=0.0) as gateway:
        export_to(gateway, spans)
        with gateway.http() as http:
            assert http.get("/v1/jobs", headers={"traceparent": SAMPLED}).headers["x-trace-id"] == "a" * 32
            linked = http.post("/v1/jobs", json={"kind": "noop"}, headers={"traceparent": UNSAMPLED})
            assert linked.headers["x-trace-id"] != "a" * 32
            for wrong in ("", "zz", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 5000):
                assert len(http.get("/v1/jobs", headers={"traceparent": wrong}).headers["x-trace-id"]) == 32
    found = {s.name: s for s in spans.get_finished_spans() if s.kind.name == "SERVER"}
    # With a ratio of 0 what is left is what the caller records, and jobs, which always are.
    assert set(found) == {"GET /v1/jobs", "POST /v1/jobs"}
    assert f"{found['POST /v1/jobs'].links[0].context.trace_id:032x}" == "a" * 32


def test_metrics_show_requests_by_route_and_the_platforms_queues(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with (
        running_gateway(database_url, redis_url, tmp_path) as gateway,
        gateway.http() as http,
        gateway.http("operator") as op,
    ):
        http.post("/v1/jobs", json={"kind": "noop"})
        text = op.get("/metrics").text
        scaling = op.get("/scaling/monitoring").json()
        unseen = op.get("/scaling/training.unseen")
        assert op.get("/scaling/nowhere").status_code == 404
    assert 'heliu_http_requests_total{method="POST",route="/v1/jobs",status="200"} 1.0' in text
    assert 'heliu_jobs{kind="noop",state="queued"} 1.0' in text
    assert 'heliu_queue_depth{queue="monitoring"} 1.0' in text
    assert (scaling["waiting"], scaling["workers"], scaling["desired"]) == (1, 0, 1)
    assert (unseen.status_code, unseen.json()["desired"]) == (200, 0)


def test_the_description_names_the_key_and_the_shape_of_errors(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with running_gateway(database_url, redis_url, tmp_path) as gateway:
        described = gateway.http(None).get("/openapi.json").json()
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    create = described["paths"]["/v1/fine_tuning/jobs"]["post"]
    assert create["security"] == [{"key": []}]
    assert create["requestBody"]["content"]["application/json"]["example"]["model"]
    assert "security" not in described["paths"]["/healthz"]["get"]
    said = [operation for path in described["paths"].values() for operation in path.values()]
    # What is neither JSON nor a form is bytes, of which there is no example.
    bodies = [
        content
        for one in said
        for kind, content in one.get("requestBody", {}).get("content", {}).items()
        if kind != "application/octet-stream"
    ]
    assert len(bodies) > 10
    for content in bodies:
        assert set(content["example"]) <= set(content["schema"].get("properties", content["example"]))
        assert set(content["schema"].get("required", [])) <= set(content["example"])
    answers = described["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert set(answers) == {"application/json", "text/event-stream"}
    assert set(described["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}
    text = json.dumps(described)
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(described["components"]["schemas"])
    assert "HTTPValidationError" not in text


def test_the_openai_client_tries_again_when_postgres_was_away_for_a_moment(
    redis_url: str, tmp_path: Path
) -> None:
    with servers.postgres_server() as postgres:
        url = servers.new_database(postgres.url, "moment")
        migrate(url)
        with running_gateway(url, redis_url, tmp_path) as gateway:
            client = OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.keys["acme"], max_retries=8)
            assert list(client.files.list()) == []
            postgres.stop_immediately()
            postgres.start()
            assert list(client.files.list()) == []
