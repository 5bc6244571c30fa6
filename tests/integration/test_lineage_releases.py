"""Lineage from evals and searches to what answers a registered name, over rows as services leave them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import conftest, servers
from tests.integration.gateway_app import RunningGateway, running_gateway
from tests.integration.test_gateway_lineage import FILE, JOB, USAGE, edges, fill, ids


@pytest.fixture(scope="module")
def gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    name = "test_lineage_releases"
    url = servers.new_database(postgres.url, name, template=conftest.TEMPLATE)
    with running_gateway(url, valkey.url, tmp_path_factory.mktemp("lineage")) as running:
        fill(running)
        yield running
    servers.drop_database(postgres.url, name)


def release(gateway: RunningGateway) -> dict[str, str]:
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
    made = release(gateway)
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
