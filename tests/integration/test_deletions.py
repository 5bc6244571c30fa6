"""What others need is not deleted: a 409 says by whom, and once nobody needs it any more it goes."""

from __future__ import annotations

from typing import Any

import httpx
from psycopg.types.json import Jsonb

from services.data_governance.repository import warehouse
from tests.integration.gateway_app import RunningGateway
from tests.integration.registry_app import OPEN, add_run, gateway_on, make, ok, promote
from tests.integration.test_gateway_tasks import error

CONFIG = {
    "type": "custom",
    "include_sample_schema": True,
    "item_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}
CHECK = {"type": "string_check", "name": "same", "operation": "eq", "input": "{{sample.output_text}}"}


gateway, http = gateway_on("deletions")


def add_eval(http: httpx.Client, **judge: Any) -> str:
    """An eval with one grader."""
    criterion = judge or {**CHECK, "reference": "{{item.text}}"}
    return str(
        ok(http.post("/v1/evals", json={"data_source_config": CONFIG, "testing_criteria": [criterion]}))["id"]
    )


def scored(model: str) -> dict[str, Any]:
    return {
        "type": "score_model",
        "name": "good",
        "model": model,
        "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    }


def kept(answer: httpx.Response, code: str, *names: str) -> None:
    """The deletion was refused, for these reasons."""
    assert answer.status_code == 409, answer.text
    told = answer.json()["error"]
    assert told["code"] == code
    assert [name for name in names if name not in told["message"]] == [], told["message"]
    assert answer.headers["x-should-retry"] == "false"


def add_job(gateway: RunningGateway, job: str, kind: str, payload: dict[str, Any]) -> None:
    with gateway.as_tenant() as c:
        c.execute(
            "INSERT INTO core.job (id, tenant_id, kind, queue, payload, max_attempts, max_crashes) "
            "VALUES (%s, %s, %s, 'training.light', %s, 1, 1)",
            (job, gateway.tenants["acme"], kind, Jsonb(payload)),
        )


def end_job(gateway: RunningGateway, job: str) -> None:
    with gateway.as_tenant() as c:
        c.execute("UPDATE core.job SET state = 'cancelled', finished_at = now() WHERE id = %s", (job,))


def test_an_eval_stays_while_a_gate_names_it_or_a_decision_rests_on_its_runs(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    first, other = add_eval(http), add_eval(http)
    make(http, "gated", "one", gates={**OPEN, "eval_id": first, "min_items": 5})
    run = add_run(gateway, first, "one", [1.0] * 10)
    spare = add_run(gateway, first, "two", [1.0] * 10)
    kept(http.delete(f"/v1/evals/{first}"), "in_use", "gated")
    ok(promote(http, "gated", 1))
    ok(http.post("/v1/registry/gated", json={"gates": {**OPEN, "eval_id": other, "min_items": 5}}))
    decision = ok(http.get("/v1/registry/gated/decisions"))["data"][0]["id"]
    for path in (f"/v1/evals/{first}", f"/v1/evals/{first}/runs/{run}"):
        kept(http.delete(path), "in_use", decision, "gated@1", run)
    ok(http.delete(f"/v1/evals/{first}/runs/{spare}"))
    kept(http.delete(f"/v1/evals/{other}"), "in_use", "gated")
    ok(http.delete("/v1/registry/gated"))
    ok(http.delete(f"/v1/evals/{first}/runs/{run}"))
    for gone in (first, other):
        ok(http.delete(f"/v1/evals/{gone}"))
    named = http.post("/v1/registry", json={"name": "late", "gates": {"eval_id": first}})
    assert (named.status_code, named.json()["error"]["param"]) == (404, "gates.eval_id")


def test_what_a_gate_waits_to_name_is_looked_for_again_when_it_is_approved(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    passing = add_eval(http)
    make(http, "waits", "one", gates=OPEN, approval="required")
    asked = ok(http.post("/v1/registry/waits", json={"gates": {**OPEN, "eval_id": passing}}), 202)
    ok(http.delete(f"/v1/evals/{passing}"))
    with gateway.http("second") as second:
        answer = second.post(f"/v1/registry/waits/requests/{asked['id']}/approve", json={})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "gates.eval_id")


def test_a_file_and_a_version_stay_while_a_gates_eval_asks_their_items(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    eval_id, free = add_eval(http), add_eval(http)
    files = {
        name: ok(http.post("/v1/files", files={"file": (name, b"{}\n")}, data={"purpose": "evals"}))["id"]
        for name in ("asked.jsonl", "free.jsonl")
    }
    for version in ("dsv-asked", "dsv-free", "dsv-new"):
        gateway.add_version(version)
    with gateway.as_tenant() as c:
        tenant = gateway.tenants["acme"]
        c.execute(
            "UPDATE data_governance.version SET created_at = now() - interval '9 days' WHERE id <> 'dsv-new'"
        )
        c.execute("UPDATE data_governance.dataset SET current_version = 'dsv-new' WHERE id = 'ds-acme'")
        c.execute(
            "INSERT INTO data_governance.retention (tenant_id, dataset_id, keep_last, keep_days) "
            "VALUES (%s, 'ds-acme', 1, 1)",
            (tenant,),
        )
    make(http, "asks", gates={**OPEN, "eval_id": eval_id})
    for items in (files["asked.jsonl"], "dsv-asked"):
        add_run(gateway, eval_id, "one", [1.0], items_of=(items, "validation"))
    for items in (files["free.jsonl"], "dsv-free"):
        add_run(gateway, free, "one", [1.0], items_of=(items, "validation"))

    def overdue() -> set[str]:
        with gateway.as_tenant() as c:
            return {row["id"] for row in warehouse.overdue(c, tenant, None)}

    kept(http.delete(f"/v1/files/{files['asked.jsonl']}"), "in_use", eval_id, "asks")
    ok(http.delete(f"/v1/files/{files['free.jsonl']}"))
    assert overdue() == {"dsv-free"}
    ok(http.delete("/v1/registry/asks"))
    ok(http.delete(f"/v1/files/{files['asked.jsonl']}"))
    assert overdue() == {"dsv-free", "dsv-asked"}


def test_a_model_stays_while_a_grader_a_gate_a_store_or_a_search_needs_it(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    for model in ("judge", "trivial", "choice"):
        gateway.add_model(model)
    gateway.add_model("encoder", kind="encoder")
    eval_id = add_eval(http, **scored("judge"))
    store = ok(http.post("/v1/vector_stores", json={"embedding_model": "encoder"}))["id"]
    make(http, "beats", gates={**OPEN, "eval_id": eval_id, "baseline_model": "trivial"})
    space = [{"path": "model", "patches": [{"base.model": "two"}, {"base": {"model": "choice"}}]}]
    add_job(gateway, "search-open", "training.search", {"space": space})
    for model, users in (
        ("judge", (f"graders of evals {eval_id}",)),
        ("trivial", ("gates of registered models beats",)),
        ("encoder", (f"vector stores {store}",)),
        ("choice", ("search-open",)),
        ("two", ("search-open",)),
    ):
        kept(http.delete(f"/v1/models/{model}"), "model_in_use", *users)
    end_job(gateway, "search-open")
    ok(http.delete("/v1/registry/beats"))
    ok(http.delete(f"/v1/evals/{eval_id}"))
    ok(http.delete(f"/v1/vector_stores/{store}"))
    for model in ("judge", "trivial", "encoder", "choice"):
        ok(http.delete(f"/v1/models/{model}"))


def test_a_registered_name_stays_while_graders_tasks_or_gates_call_it_with_a_version_or_without(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    gateway.add_model("pinned")
    make(http, "judges", "one", "pinned")
    ok(promote(http, "judges", 1))
    by_version = add_eval(http, **scored("registry:judges@2"))
    by_name = add_eval(http, **scored("registry:judges"))
    spec = {"model": "registry:judges@2", "prompt": "{{ text }}", "variables": {"text": {}}}
    ok(http.post("/v1/tasks", json={"name": "judges", "spec": spec}))
    gates = {**OPEN, "eval_id": by_name, "baseline_model": "registry:judges"}
    make(http, "above", gates=gates)
    kept(
        http.delete("/v1/registry/judges"),
        "model_in_use",
        by_version,
        by_name,
        "tasks judges",
        "gates of registered models above",
    )
    # Archived, it answers those that name it yet, and its model stays for them.
    ok(http.post("/v1/registry/judges/versions/2/archive", json={}))
    kept(http.delete("/v1/models/pinned"), "model_in_use", by_version, "tasks judges")
    ok(http.delete("/v1/tasks/judges"))
    ok(http.delete(f"/v1/evals/{by_version}"))
    ok(http.delete("/v1/models/pinned"))
    ok(http.delete("/v1/registry/above"))
    ok(http.delete(f"/v1/evals/{by_name}"))
    ok(http.delete("/v1/registry/judges"))


def test_an_upstream_stays_while_a_grader_asks_it(gateway: RunningGateway, http: httpx.Client) -> None:
    with gateway.http("operator") as operator:
        body = {
            "name": "far",
            "url": "https://gpu.example.com/v1",
            "model": "far",
            "endpoints": ["chat"],
            "tenant": "acme",
            "test": False,
        }
        ok(operator.post("/v1/upstreams", json=body))
        eval_id = add_eval(http, **scored("far"))
        kept(operator.delete("/v1/upstreams/far?tenant=acme"), "model_in_use", eval_id)
        ok(http.delete(f"/v1/evals/{eval_id}"))
        ok(operator.delete("/v1/upstreams/far?tenant=acme"))


def test_a_vector_store_stays_while_a_task_answers_from_it(http: httpx.Client) -> None:
    store = ok(http.post("/v1/vector_stores", json={"name": "handbook"}))["id"]
    spec = {
        "model": "one",
        "prompt": "{{ text }} {{ passages }}",
        "variables": {"text": {}},
        "retrieval": {"vector_store": store},
    }
    ok(http.post("/v1/tasks", json={"name": "cites", "spec": spec}))
    kept(http.delete(f"/v1/vector_stores/{store}"), "in_use", "cites")
    ok(http.delete("/v1/tasks/cites"))
    ok(http.delete(f"/v1/vector_stores/{store}"))


def test_a_model_that_a_version_needs_is_not_deleted(gateway: RunningGateway, http: httpx.Client) -> None:
    for model in ("kept-1", "kept-2", "kept-3"):
        gateway.add_model(model)
    make(http, "keeps", "kept-1", "kept-2", "kept-3")
    ok(promote(http, "keeps", 1))
    ok(promote(http, "keeps", 2))
    # 1 is archived, and a roll-back can come to it.
    for model in ("kept-1", "kept-2", "kept-3"):
        assert error(http.delete(f"/v1/models/{model}")) == (409, "model_in_use", "model")
    ok(http.post("/v1/registry/keeps/versions/3/archive", json={}))
    ok(http.delete("/v1/models/kept-3"))
    gone = http.post("/v1/registry/keeps/versions/3/stage", json={})
    assert error(gone) == (409, "model_gone", "version")
    assert error(http.delete("/v1/models/registry:keeps")) == (400, "invalid_value", "model")
    ok(http.delete("/v1/registry/keeps"))
    ok(http.delete("/v1/models/kept-1"))
