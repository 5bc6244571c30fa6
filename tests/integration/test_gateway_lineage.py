"""The graph of lineage over rows as services leave them: walks, paging, cuts, other tenants, exports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import conftest, servers
from tests.integration.gateway_app import RunningGateway, running_gateway

FILE = """
INSERT INTO gateway.file (id, tenant_id, filename, purpose, bytes, artifact, job_id)
VALUES (%s, %s, %s, 'user_data', 1, %s, %s)"""
JOB = """
INSERT INTO core.job (id, tenant_id, kind, queue, state, payload, max_attempts, max_crashes, started_at, finished_at)
VALUES (%s, %s, %s, 'data', 'succeeded', %s::jsonb, 1, 1, '2026-01-01', '2026-01-02')"""
USAGE = """
INSERT INTO gateway.usage (tenant_id, request_id, answer_id, endpoint, model, pool, status, prompt_tokens,
    completion_tokens, seconds) VALUES (%s, %s, %s, '/v1/chat/completions', %s, 'default', 'ok', 1, 1, 0)"""

# What no id is, though it begins as one.
ODD = ("registry:", "registry:x@y", "reg-@", "search-x@y", "promotion-x", f"promotion-{10**30}")


@pytest.fixture(scope="module")
def gateway(postgres: Any, valkey: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    name = "test_lineage_graph"
    url = servers.new_database(postgres.url, name, template=conftest.TEMPLATE)
    home: Path = tmp_path_factory.mktemp("lineage")
    with running_gateway(url, valkey.url, home) as running:
        fill(running)
        yield running
    servers.drop_database(postgres.url, name)


def fill(gateway: RunningGateway) -> None:
    """file-a -> dsv-1 -> adapter ft (on base b, validated on dsv-v) -> three answers; ft -> adapter of it."""
    tenant = gateway.tenants["acme"]
    gateway.add_version("dsv-1")
    gateway.add_version("dsv-v")
    gateway.add_model("b")
    adapter = {"kind": "adapter", "base_artifact": "sha256:" + "a" * 64, "base_id": "b"}
    gateway.add_model("ft:b:x:1", **adapter)
    with gateway.as_tenant() as c:
        c.execute(FILE, ("file-a", tenant, "a.jsonl", "sha256:" + "c" * 64, None))
        c.execute(FILE, ("file-out", tenant, "out.jsonl", "sha256:" + "d" * 64, "batch_1"))
        c.execute(JOB, ("dsjob-1", tenant, "data.build_version", '{"file_id": "file-a"}'))
        payload = '{"training": {"id": "dsv-1"}, "validation": {"id": "dsv-v"}, "base": {"model": "b"}}'
        c.execute(JOB, ("ftjob-1", tenant, "training.fine_tune", payload))
        c.execute(JOB, ("batch_1", tenant, "inference.batch", '{"input_file_id": "file-a"}'))
        c.execute("UPDATE data_governance.version SET file_id = 'file-a' WHERE id = 'dsv-1'")
        c.execute(
            "UPDATE training.model SET dataset_version = 'dsv-1', job_id = 'ftjob-1' WHERE id = 'ft:b:x:1'"
        )
    with gateway.platform.db.core() as c:
        for number in range(3):
            c.execute(USAGE, (tenant, f"req_{number}", f"chatcmpl-{number}", "ft:b:x:1"))


def ids(shape: dict[str, Any]) -> set[str]:
    return {node["id"] for node in shape["nodes"]}


def edges(shape: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(edge["from"], edge["type"], edge["to"]) for edge in shape["edges"]}


def test_an_answer_leads_to_model_base_version_validation_and_file(gateway: RunningGateway) -> None:
    with gateway.http() as client:
        shape = client.get("/v1/lineage/chatcmpl-1", params={"rows": 0}).json()
    assert ids(shape) == {"chatcmpl-1", "ft:b:x:1", "b", "dsv-1", "dsv-v", "file-a"}
    assert edges(shape) == {
        ("ft:b:x:1", "answered", "chatcmpl-1"),
        ("b", "stands_on", "ft:b:x:1"),
        ("dsv-1", "trained_on", "ft:b:x:1"),
        ("dsv-v", "validated_on", "ft:b:x:1"),
        ("file-a", "governed", "dsv-1"),
    }
    assert not shape["truncated"]
    (version,) = [node for node in shape["nodes"] if node["id"] == "dsv-1"]
    assert (version["kind"], version["dataset"], version["rows"]) == ("version", "service", 3)
    assert "artifact" not in str(shape)


def test_an_answer_is_found_by_its_request_too(gateway: RunningGateway) -> None:
    with gateway.http() as client:
        shape = client.get("/v1/lineage/req_2", params={"rows": 0, "depth": 1}).json()
    assert ids(shape) == {"chatcmpl-2", "ft:b:x:1"}
    assert shape["truncated"]


def test_a_file_leads_to_every_answer_of_what_learned_from_it(gateway: RunningGateway) -> None:
    with gateway.http() as client:
        shape = client.get("/v1/lineage/file-a", params={"direction": "downstream"}).json()
    assert ids(shape) == {"file-a", "dsv-1", "ft:b:x:1", "chatcmpl-0", "chatcmpl-1", "chatcmpl-2"}


def test_a_node_with_more_neighbours_than_asked_for_says_so(gateway: RunningGateway) -> None:
    with gateway.http() as client:
        shape = client.get("/v1/lineage/dsv-1", params={"direction": "downstream", "limit": 2}).json()
    (model,) = [node for node in shape["nodes"] if node["kind"] == "model"]
    assert model["has_more"]
    assert shape["truncated"]
    assert len([node for node in shape["nodes"] if node["kind"] == "answer"]) == 2


def test_all_answers_are_paged_newest_first(gateway: RunningGateway) -> None:
    with gateway.http() as client:
        first = client.get("/v1/lineage/file-a/answers", params={"limit": 2}).json()
        rest = client.get("/v1/lineage/file-a/answers", params={"limit": 2, "after": first["last_id"]}).json()
        wrong = client.get("/v1/lineage/file-a/answers", params={"after": "chatcmpl-none"})
    assert [row["id"] for row in first["data"]] == ["chatcmpl-2", "chatcmpl-1"]
    assert first["has_more"]
    assert [row["id"] for row in rest["data"]] == ["chatcmpl-0"]
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "after")


def test_a_job_is_between_what_it_read_and_what_it_made(gateway: RunningGateway) -> None:
    with gateway.http() as client:
        up = client.get("/v1/lineage/ftjob-1", params={"rows": 0, "depth": 1}).json()
        down = client.get("/v1/lineage/ftjob-1", params={"direction": "downstream", "depth": 1}).json()
        made = client.get("/v1/lineage/file-out", params={"rows": 0}).json()
    assert ids(up) == {"ftjob-1", "dsv-1", "dsv-v", "b"}
    assert ids(down) == {"ftjob-1", "ft:b:x:1"}
    assert edges(made) == {("batch_1", "made", "file-out"), ("file-a", "read", "batch_1")}


def test_another_tenants_thing_and_one_that_never_was_are_404(gateway: RunningGateway) -> None:
    with gateway.http("rival") as client:
        for name in ("chatcmpl-1", "dsv-1", "file-a", "b", "ftjob-1", "nothing"):
            for path in ("", "/answers", "/openlineage"):
                response = client.get(f"/v1/lineage/{name}{path}")
                assert (name, path, response.status_code) == (name, path, 404)
        for name in ODD:
            assert (name, client.get(f"/v1/lineage/{name}").status_code) == (name, 404)


def test_openlineage_has_a_start_and_an_end_of_each_job_with_its_data(gateway: RunningGateway) -> None:
    with gateway.http() as client:
        events = client.get("/v1/lineage/chatcmpl-1/openlineage").json()["data"]
    assert sorted(event["eventType"] for event in events) == ["COMPLETE", "COMPLETE", "START", "START"]
    start, end = [event for event in events if event["job"]["name"] == "training.fine_tune"]
    assert (start["eventType"], end["job"]["namespace"]) == ("START", "heliu://acme")
    assert {item["name"] for item in end["inputs"]} == {"dataset/service", "model/b"}
    assert [item["name"] for item in end["outputs"]] == ["model/ft:b:x:1"]
    assert start["run"]["runId"] == end["run"]["runId"]
    versions = [item["facets"]["version"]["datasetVersion"] for item in end["inputs"] if item["facets"]]
    assert sorted(versions) == ["dsv-1", "dsv-v"]


def test_every_file_of_a_version_leads_to_it(gateway: RunningGateway) -> None:
    tenant = gateway.tenants["acme"]
    gateway.add_version("dsv-many")
    with gateway.as_tenant() as c:
        c.execute(FILE, ("file-b", tenant, "b.jsonl", "sha256:" + "e" * 64, None))
        payload = '{"file_id": "file-a", "others": [{"file_id": "file-b", "name": "b", "artifact": "x"}]}'
        c.execute(JOB, ("dsjob-many", tenant, "data.build_version", payload))
        c.execute("UPDATE data_governance.version SET job_id = 'dsjob-many' WHERE id = 'dsv-many'")
    with gateway.http() as client:
        down = client.get("/v1/lineage/file-b", params={"direction": "downstream"}).json()
        up = client.get("/v1/lineage/dsv-many", params={"rows": 0}).json()
        job = client.get("/v1/lineage/dsjob-many", params={"rows": 0}).json()
    assert edges(down) == {("file-b", "governed", "dsv-many")}
    assert edges(up) == {("file-b", "governed", "dsv-many")}
    assert edges(job) == {("file-a", "read", "dsjob-many"), ("file-b", "read", "dsjob-many")}


def test_a_source_leads_through_its_sync_and_a_labelling_project_to_a_model(gateway: RunningGateway) -> None:
    tenant = gateway.tenants["acme"]
    for number in (1, 2):
        gateway.add_version(f"dsv-of-{number}")
    gateway.add_model("of-labels")
    with gateway.as_tenant() as c:
        c.execute(
            "INSERT INTO data_governance.source (id, tenant_id, name, kind, connection, options) "
            "VALUES ('src-1', %s, 'crm', 'postgres', '{}', '{}')",
            (tenant,),
        )
        c.execute(
            "INSERT INTO data_governance.label_project (id, tenant_id, name, spec, source) "
            "VALUES ('lab-1', %s, 'intents', '{}', '{\"kind\": \"version\", \"id\": \"dsv-of-1\"}')",
            (tenant,),
        )
        c.execute(JOB, ("sync-1", tenant, "data.sync", '{"source_id": "src-1"}'))
        c.execute(JOB, ("labjob-1", tenant, "data.export_labels", '{"project_id": "lab-1"}'))
        c.execute(FILE, ("file-synced", tenant, "crm.jsonl", "sha256:" + "1" * 64, "sync-1"))
        c.execute(FILE, ("file-labels", tenant, "labels.jsonl", "sha256:" + "2" * 64, "labjob-1"))
        for number, file in ((1, "file-synced"), (2, "file-labels")):
            c.execute(
                "UPDATE data_governance.version SET file_id = %s WHERE id = %s", (file, f"dsv-of-{number}")
            )
        c.execute("UPDATE training.model SET dataset_version = 'dsv-of-2' WHERE id = 'of-labels'")
    with gateway.http() as client:
        down = client.get("/v1/lineage/src-1", params={"direction": "downstream"}).json()
        up = client.get("/v1/lineage/of-labels", params={"rows": 0}).json()
    way = {"src-1", "file-synced", "dsv-of-1", "lab-1", "file-labels", "dsv-of-2", "of-labels"}
    assert ids(down) == way
    assert ids(up) == way | {"sync-1", "labjob-1"}
