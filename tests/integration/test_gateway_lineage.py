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
        _fill(running)
        yield running
    servers.drop_database(postgres.url, name)


def _fill(gateway: RunningGateway) -> None:
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


def _release(gateway: RunningGateway) -> dict[str, str]:
    """A search's best model, evaluated with a judge on a file's items, decided on, promoted, and asked by its name."""
    tenant = gateway.tenants["acme"]
    for name in ("found", "judge"):
        gateway.add_model(name)
    search = '{"metric": "valid_loss", "job": {"training": {"id": "dsv-1"}, "base": {"model": "b"}}}'
    run = (
        '{"items": {"id": "file-items"}, "data_source": {"model": "found"}, '
        '"criteria": [{"type": "score_model", "model": "judge"}]}'
    )
    with gateway.as_tenant() as c:
        c.execute(JOB, ("search-1", tenant, "training.search", search))
        c.execute(JOB, ("headjob-1", tenant, "training.train_head", "{}"))
        c.execute(
            "INSERT INTO training.search_trial (search_id, number, tenant_id, job_id, params, state, value,"
            " settled_at) VALUES ('search-1', 3, %s, 'headjob-1', '{}', 'complete', 0.5, now())",
            (tenant,),
        )
        c.execute("UPDATE training.model SET job_id = 'headjob-1' WHERE id = 'found'")
        c.execute(FILE, ("file-items", tenant, "items.jsonl", "sha256:" + "9" * 64, None))
        c.execute(
            "INSERT INTO training.eval (id, tenant_id, name, data_source_config, testing_criteria) "
            "VALUES ('eval_1', %s, 'refunds', '{}', '[]')",
            (tenant,),
        )
        c.execute(JOB, ("evalrun_1", tenant, "eval.run", run))
        c.execute(
            "INSERT INTO training.eval_run (id, tenant_id, eval_id, name, model, data_source) "
            "VALUES ('evalrun_1', %s, 'eval_1', 'first', 'found', '{}')",
            (tenant,),
        )
        for number in range(3):
            c.execute(
                "INSERT INTO training.eval_item (run_id, item_no, tenant_id, item_key, cluster, passed, score, scores,"
                " slices, body) VALUES ('evalrun_1', %s, %s, %s, '', true, 1, '{}', '{}', '{}')",
                (number, tenant, f"item-{number}"),
            )
    gates = {"eval_id": "eval_1", "min_items": 2, "data_gate": "where_known"}
    with gateway.http() as client:

        def post(path: str, **body: Any) -> dict[str, Any]:
            answer = client.post(f"/v1/registry{path}", json=body)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        post("", name="release", gates=gates)
        post("/release/versions", model="found")
        post("/release/versions/1/stage")
        decision = post("/release/versions/1/gate")["id"]
        post("/release/versions/1/promote", decision=decision)
        event = client.get("/v1/registry/release/history").json()["data"][0]["id"]
    with gateway.platform.db.core() as c:
        c.execute(USAGE, (tenant, "req_r", "chatcmpl-r", "found"))
        c.execute(
            "UPDATE gateway.usage SET metadata = %s::jsonb WHERE answer_id = 'chatcmpl-r'",
            ('{"registry": "release", "registry_version": 1}',),
        )
    return {"decision": decision, "promotion": f"promotion-{event}"}


def test_what_answers_a_registered_name_leads_to_its_trial_its_eval_and_its_promotion_and_back(
    gateway: RunningGateway,
) -> None:
    made = _release(gateway)
    decision, promotion = made["decision"], made["promotion"]

    def trace(id_: str, direction: str = "upstream", **more: Any) -> dict[str, Any]:
        with gateway.http() as client:
            answer = client.get(f"/v1/lineage/{id_}", params={"rows": 0, "direction": direction, **more})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    found = {"found", "search-1@3", "search-1", "dsv-1", "file-a", "b"}
    answer = trace("chatcmpl-r")
    assert ids(answer) == {"chatcmpl-r", "registry:release@1", *found}
    assert edges(answer) >= {
        ("registry:release@1", "answered", "chatcmpl-r"),
        ("found", "registered_as", "registry:release@1"),
        ("search-1@3", "made", "found"),
        ("search-1", "tried", "search-1@3"),
        ("dsv-1", "read", "search-1"),
        ("b", "used", "search-1"),
    }
    (node,) = [node for node in answer["nodes"] if node["id"] == "chatcmpl-r"]
    assert (node["registry"], node["registry_version"]) == ("release", 1)

    name = trace("registry:release")
    why = {"eval_1", "file-items", "judge", "evalrun_1", decision, promotion}
    assert ids(name) == {"registry:release", "registry:release@1", *why, *found}
    assert edges(name) >= {
        ("registry:release@1", "version_of", "registry:release"),
        ("eval_1", "measured", "evalrun_1"),
        ("file-items", "items_of", "evalrun_1"),
        ("found", "evaluated", "evalrun_1"),
        ("judge", "judged", "evalrun_1"),
        ("evalrun_1", "weighed_in", decision),
        ("registry:release@1", "decided_on", decision),
        (decision, "let_in", promotion),
        (promotion, "moved", "registry:release"),
    }
    kinds = {node["id"]: node["kind"] for node in name["nodes"]}
    assert [kinds[id_] for id_ in ("registry:release@1", "evalrun_1", decision, promotion)] == [
        "model_version",
        "eval_run",
        "decision",
        "promotion",
    ]

    way = {"evalrun_1", decision, promotion, "registry:release"}
    assert ids(trace("file-items", "downstream")) == {"file-items", *way}
    assert ids(trace("eval_1", "downstream")) == {"eval_1", *way}
    assert ids(trace("judge", "downstream")) == {"judge", *way}
    after = {"found", "registry:release@1", "chatcmpl-r", *way}
    assert ids(trace("search-1", "downstream")) == {"search-1", "search-1@3", *after}
    assert ids(trace("registry:release@1", "downstream")) == after - {"found", "evalrun_1"}
    for id_ in (decision, promotion, "search-1@3"):
        assert id_ in ids(trace(id_))

    with gateway.http() as client:
        for path in ("registry:release", "registry:release@1", "search-1", "found"):
            listed = client.get(f"/v1/lineage/{path}/answers").json()["data"]
            assert (path, [row["id"] for row in listed]) == (path, ["chatcmpl-r"])
        for path in ("eval_1", decision):
            assert client.get(f"/v1/lineage/{path}/answers").json()["data"] == []
        told = client.get("/v1/lineage/registry:release/openlineage").json()["data"]
        # Once the name is another's, what was is told by the id of its row.
        assert client.delete("/v1/registry/release").status_code == 200
        assert client.get("/v1/lineage/registry:release").status_code == 404
    ends = {event["job"]["name"]: event for event in told if event["eventType"] == "COMPLETE"}
    assert {"eval.run", "training.train_head", "training.search"} <= ends.keys()
    assert {item["name"] for item in ends["eval.run"]["inputs"]} == {
        "eval/eval_1",
        "file/file-items",
        "model/found",
        "model/judge",
    }
    assert [item["name"] for item in ends["eval.run"]["outputs"]] == ["eval_run/evalrun_1"]
    gone = trace("chatcmpl-r", depth=1)
    (version,) = [node for node in gone["nodes"] if node["kind"] == "model_version"]
    assert (version["id"].startswith("reg-"), version["name"], "deleted_at" in version) == (
        True,
        "release",
        True,
    )
    assert ids(trace(version["id"])) >= {"found", "search-1"}
    with gateway.http("rival") as rival:
        for id_ in (version["id"], decision, promotion, "eval_1", "evalrun_1", "search-1", "search-1@3"):
            assert (id_, rival.get(f"/v1/lineage/{id_}").status_code) == (id_, 404)
