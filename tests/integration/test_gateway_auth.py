"""Who may do what: every route without a key, with a tenant's key, and with another tenant's."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute

from services.gateway.auth import PUBLIC
from services.gateway.routes import artifacts, operator, upstreams
from shared import keys, stored_chats
from shared.contracts.inference import ChatMessage, Completion
from shared.contracts.stored_chats import body_of
from shared.errors import ConfigurationError
from shared.settings import read_settings
from shared.stored_chats import StoredChat
from tests.integration.gateway_app import PEPPER, RunningGateway, running_gateway
from tests.integration.labelling_app import Person, make_project


@pytest.fixture
def gateway(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(database_url, redis_url, tmp_path) as running:
        yield running


SPAN = """
INSERT INTO monitoring.span (trace_id, span_id, tenant_id, service, name, kind, start_ns, end_ns, status)
VALUES (%s, 's', %s, 'heliu-gateway', 'GET /', 'server', 1, 2, 'ok')"""

ALERT = """
INSERT INTO monitoring.alert (id, tenant_id, rule, subject, severity, message, value, threshold)
VALUES (%s, %s, 'r', 's', 'warn', 'm', 1, 1)"""

TASK = {"model": "m", "prompt": "{{ text }}", "variables": {"text": {}}}
JSONL = {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {"q": "a"}}]}}
EVAL = {
    "data_source_config": {"type": "custom", "item_schema": {"type": "object"}},
    "testing_criteria": [
        {"type": "string_check", "name": "a", "input": "{{item.q}}", "reference": "a", "operation": "eq"}
    ],
}
ITEM = """
INSERT INTO training.eval_item (run_id, item_no, tenant_id, item_key, cluster, passed, score, scores, slices, body)
VALUES (%s, 0, %s, 'k', 'k', true, 1, '{}', '{}', '{"item": {}, "input": [], "sample": {}, "results": []}')"""
OPERATORS = {
    route.path
    for router in (operator.router, upstreams.router, artifacts.router)
    for route in router.routes
    if isinstance(route, APIRoute)
}
STORE = "/v1/vector_stores/{vector_store_id}"
LABELLING = "/v1/labelling/projects/{project}"
REGISTERED = "/v1/registry/{name}/versions/{number}"
# What a route wants to read before it looks for what is named in its path.
BODIES = {
    "/v1/chat/completions/{completion_id}": {"metadata": {}},
    "/v1/sources/{name}": {"schedule": None},
    "/v1/sources/{name}/syncs": {},
    "/v1/webhooks/{endpoint_id}": {"events": ["job.dead"]},
    "/v1/tasks/{name}/versions": {"spec": TASK},
    "/v1/tasks/{name}/activate": {"version": 1},
    "/v1/tasks/{name}/split": {"weights": {"1": 1}},
    "/v1/erasures/{erasure_id}/rebuild": {},
    "/v1/datasets/{name}/versions/{version_id}/export": {},
    "/v1/registry/{name}": {"description": "x"},
    "/v1/registry/{name}/versions": {"model": "m"},
    "/v1/registry/{name}/rollback": {},
    **{f"{REGISTERED}/{verb}": {} for verb in ("gate", "stage", "archive", "promote")},
    f"{REGISTERED}/canary": {"share": 0.1},
    f"{REGISTERED}/waivers": {"check": "parity", "reason": "x"},
    **{f"/v1/registry/{{name}}/requests/{{request_id}}/{verb}": {} for verb in ("approve", "reject")},
    "/v1/evals/{eval_id}": {"name": "x"},
    "/v1/evals/{eval_id}/runs": {"data_source": JSONL},
    LABELLING: {"guidelines": "x"},
    f"{LABELLING}/labellers": {"name": "x"},
    f"{LABELLING}/items/{{item_id}}/gold": {"value": {"label": "good"}},
    f"{LABELLING}/import": {"file_id": "file-x"},
    f"{LABELLING}/export": {},
    f"{LABELLING}/build": {"dataset": "x"},
    f"{LABELLING}/suspects": {},
    f"{LABELLING}/picks": {},
    f"{LABELLING}/functions": {
        "functions": [{"kind": "keyword", "name": "x", "label": "good", "any": ["x"]}]
    },
    f"{LABELLING}/work/next": {},
    STORE: {"name": "x"},
    f"{STORE}/search": {"query": "x"},
    f"{STORE}/files": {"file_id": "file-x"},
    f"{STORE}/files/{{file_id}}": {"attributes": {}},
    f"{STORE}/file_batches": {"file_ids": ["file-x"]},
    f"{LABELLING}/work/items/{{item_id}}/labels": {"skip": True},
}

# What a route wants to be told beside its path.
QUERIES = {
    "/v1/datasets/{name}/diff": "?from=dsv-1&to=dsv-1",
    "/v1/datasets/{name}/tags/{tag}": "?expected=dsv-1",
    "/v1/evals/{eval_id}/compare": "?run={run_id}&run={other_run_id}",
}
# A worker answers these, and there is none here; or they read files that this version does not have.
BY_WORKERS = (
    "rows",
    "/agreement",
    "/diff",
    "/download",
    "/croissant",
    "/tensorboard",
    f"{STORE}/files/{{file_id}}/content",
)
ERASURE = """
INSERT INTO data_governance.erasure (id, tenant_id, job_id, subject, found) VALUES ('erasure-1', %s, 'j', '{}', '{}')"""


def described(gateway: RunningGateway) -> dict[str, dict[str, object]]:
    paths: dict[str, dict[str, object]] = httpx.get(f"{gateway.url}/openapi.json").json()["paths"]
    return paths


def every_route(gateway: RunningGateway) -> list[tuple[str, str]]:
    """(method, path with its parameters filled in) of every route but the public ones."""
    return [
        (method.upper(), re.sub(r"\{[^}]*\}", "nobody", path))
        for path, methods in described(gateway).items()
        for method in methods
        if path not in PUBLIC
    ]


def test_every_route_without_a_key_is_a_401(gateway: RunningGateway) -> None:
    routes = every_route(gateway)
    assert len(routes) > 45
    with gateway.http(None) as client:
        for method, path in [
            *routes,
            ("GET", "/"),
            ("GET", "/v2/none"),
            ("POST", "/readyz/x"),
            ("PATCH", "/v1/files"),
        ]:
            response = client.request(method, path)
            assert (method, path, response.status_code) == (method, path, 401)
            assert response.json()["error"]["code"] == "authentication_required"
            assert response.headers["www-authenticate"] == "Bearer"


def test_the_public_paths_need_no_key(gateway: RunningGateway) -> None:
    with gateway.http(None) as client:
        for path in PUBLIC:
            assert client.get(path).status_code == 200


def test_a_tenants_key_on_an_operators_route_is_a_403(gateway: RunningGateway) -> None:
    paths = OPERATORS | {"/metrics"}
    assert {"/v1/keys", "/v1/tenants", "/v1/workers", "/scaling/{pool}", "/metrics"} <= paths
    with gateway.http() as client:
        for path in paths:
            for method in described(gateway)[path]:
                response = client.request(method.upper(), path.replace("{", "").replace("}", ""), json={})
                assert (path, response.status_code) == (path, 403)
                assert response.json()["error"]["code"] == "permission_denied"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Basic aGw6aGw=",
        "Bearer sk-123",
        "Bearer hl_",
        "Bearer ' OR 1=1 --",
        "Bearer hl_'; DROP TABLE core.api_key; --",
        "Bearer " + "hl_" + "x" * 5000,
        pytest.param("Bearer " + keys.new_key(), id="a key that nobody has"),
    ],
)
def test_a_key_that_is_none_is_a_401(gateway: RunningGateway, header: str) -> None:
    response = httpx.get(f"{gateway.url}/v1/files", headers={"authorization": header})
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"


def test_a_dump_of_the_database_holds_no_key(gateway: RunningGateway) -> None:
    with gateway.platform.db.core() as c:
        rows = c.execute("SELECT * FROM core.api_key").fetchall()
    for key in gateway.keys.values():
        assert key not in repr(rows)
        assert keys.digest(key, "another pepper") not in [bytes(row["digest"]) for row in rows]
        assert keys.digest(key, PEPPER) in [bytes(row["digest"]) for row in rows]


def test_a_revoked_key_stops_at_once(gateway: RunningGateway) -> None:
    with gateway.http("operator") as op:
        made = op.post("/v1/keys", json={"name": "ci", "tenant": "acme"}).json()
        gateway.keys["ci"] = made["key"]
        assert keys.well_formed(made["key"])
        with gateway.http("ci") as client:
            assert client.get("/v1/files").status_code == 200
            assert op.delete(f"/v1/keys/{made['id']}").json()["deleted"] is True
            assert client.get("/v1/files").status_code == 401
        listed = {row["id"]: row for row in op.get("/v1/keys").json()["data"]}
    assert listed[made["id"]]["revoked_at"] is not None
    assert "key" not in listed[made["id"]]
    with gateway.platform.db.core() as c:
        actions = [r["action"] for r in c.execute("SELECT action FROM core.audit ORDER BY id").fetchall()]
    assert actions == ["key_created", "key_revoked"]


def test_a_stream_of_events_ends_with_the_key_that_watches_it(gateway: RunningGateway) -> None:
    with gateway.http("operator") as op:
        made = op.post("/v1/keys", json={"name": "watcher", "tenant": "acme"}).json()
        gateway.keys["watcher"] = made["key"]
        with gateway.http("watcher") as client:
            job = client.post("/v1/jobs", json={"kind": "noop"}).json()["id"]
            with client.stream("GET", f"/v1/jobs/{job}/events?stream=true") as response:
                lines = response.iter_lines()
                assert "event: job_queued" in (next(lines), next(lines))
                op.delete(f"/v1/keys/{made['id']}")
                rest = list(lines)
    assert "event: error" in rest
    assert "invalid_api_key" in "".join(rest)


def test_a_new_tenant_gets_keys_of_its_own_and_no_name_twice(gateway: RunningGateway) -> None:
    with gateway.http("operator") as op:
        assert op.post("/v1/tenants", json={"name": "third", "max_live": 2}).json()["max_live"] == 2
        again = op.post("/v1/tenants", json={"name": "third"})
        assert (again.status_code, again.headers["x-should-retry"]) == (409, "false")
        made = op.post("/v1/keys", json={"name": "a", "tenant": "third"}).json()
        assert made["tenant"] == "third"
        missing = op.post("/v1/keys", json={"name": "a", "tenant": "fourth"})
        assert (missing.status_code, missing.json()["error"]["param"]) == (404, "tenant")


def make_eval(gateway: RunningGateway, acme: httpx.Client) -> dict[str, str]:
    """An eval of acme's with two runs of one item each, as a worker leaves them."""
    made = acme.post("/v1/evals", json=EVAL).json()["id"]
    runs = [
        acme.post(f"/v1/evals/{made}/runs", json={"data_source": JSONL, "name": name}).json()["id"]
        for name in ("one", "other")
    ]
    with gateway.platform.db.core() as c:
        c.execute("UPDATE core.job SET state = 'succeeded', finished_at = now() WHERE id = ANY(%s)", (runs,))
    with gateway.as_tenant() as c:
        for run in runs:
            c.execute(ITEM, (run, gateway.tenants["acme"]))
    items = acme.get(f"/v1/evals/{made}/runs/{runs[0]}/output_items").json()["data"]
    return {
        "eval_id": made,
        "run_id": runs[0],
        "other_run_id": runs[1],
        "output_item_id": items[0]["id"],
    }


def store_chat(gateway: RunningGateway) -> str:
    """A stored chat of acme's."""
    asked = Completion(messages=(ChatMessage(role="user", content="a"),))
    choices = [{"text": "b", "finish_reason": "stop"}]
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    chat = StoredChat("chatcmpl-1", "m", ("m",), body_of(asked, created=1, choices=choices, usage=usage))
    with gateway.as_tenant() as connection:
        stored_chats.add(connection, gateway.tenants["acme"], chat)
    return chat.id


def make_registered(acme: httpx.Client) -> dict[str, str]:
    """A registered model of acme's with a version in staging, a decision of its gate, and nobody to approve it."""
    assert acme.post("/v1/registry", json={"name": "service"}).status_code == 200
    added = acme.post("/v1/registry/service/versions", json={"model": "m"})
    assert added.status_code == 200, added.text
    acme.post("/v1/registry/service/versions/1/stage", json={})
    decision = acme.post("/v1/registry/service/versions/1/gate", json={})
    assert decision.status_code == 200, decision.text
    return {"number": "1", "decision_id": decision.json()["id"], "request_id": "regreq-none"}


def test_what_is_another_tenants_is_not_there(gateway: RunningGateway) -> None:
    with gateway.http() as acme, gateway.http("rival") as rival:
        upload = {"file": ("a.jsonl", b"{}\n")}
        file = acme.post("/v1/files", files=upload, data={"purpose": "fine-tune"}).json()["id"]
        rows = acme.post("/v1/files", files=upload, data={"purpose": "batch"}).json()["id"]
        gateway.add_model("m")
        gateway.add_version("dsv-1")
        tune = acme.post("/v1/fine_tuning/jobs", json={"model": "m", "training_file": file}).json()["id"]
        window = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = acme.post("/v1/batches", json={"input_file_id": rows, **window}).json()["id"]
        hook = acme.post(
            "/v1/webhooks", json={"url": "https://example.com", "events": ["job.failed"]}
        ).json()["id"]
        head = {
            "type": "head",
            "name": "h",
            "head": "single_label",
            "method": "lstm",
            "training_file": "dsv-1",
        }
        head_job = acme.post("/v1/training/jobs", json=head).json()["id"]
        rates = {"type": "float", "low": 0.001, "high": 0.1}
        search = {"job": head | {"name": "s"}, "space": {"hyperparameters.learning_rate": rates}}
        search_id = acme.post("/v1/training/searches", json=search).json()["id"]
        wanted = {"model": "m", "dataset_version": "dsv-1"}
        evaluation = acme.post("/v1/evaluations", json=wanted).json()["id"]
        with gateway.platform.db.core() as c:
            c.execute(SPAN, ("a" * 32, gateway.tenants["acme"]))
            c.execute(ALERT, ("alert-1", gateway.tenants["acme"]))
        with gateway.as_tenant() as c:
            c.execute(ERASURE, (gateway.tenants["acme"],))
        names = {"file_id": file, "batch_id": batch, "endpoint_id": hook, "model": "m", "name": "service"}
        blob = f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
        assert acme.put(f"/v1/blobs/{blob}", params={"size": 7}, content=b"weights").json()["complete"]
        names |= {
            "id": tune,
            "erasure_id": "erasure-1",
            "search_id": search_id,
            "tag": "best",
            "version_id": "dsv-1",
            "trace_id": "a" * 32,
            "blob": blob,
            "version": "1",
        }
        assert acme.post("/v1/tasks", json={"name": "service", "spec": TASK}).status_code == 200
        names |= make_eval(gateway, acme) | make_registered(acme)
        names["completion_id"] = store_chat(gateway)
        project = make_project(gateway, ["one"])
        labeller = Person(gateway, project, "li").id
        names |= {"project": project, "item_id": f"{project}-0", "labeller_id": labeller}
        jobs = {"evaluations": evaluation, "fine_tuning": tune, "jobs": tune}
        jobs["training"] = head_job
        source = {"name": "service", "connection": {"kind": "files", "path": "/data"}, "test": False}
        assert acme.post("/v1/sources", json=source).status_code == 200
        names["sync_id"] = acme.post("/v1/sources/service/syncs", json={}).json()["id"]
        check = {
            "inputs": [{"name": "a", "file_id": file}],
            "checks": {"keys": [{"input": "a", "columns": ["id"]}]},
        }
        names["check_id"] = acme.post("/v1/checks", json=check).json()["id"]
        store = acme.post("/v1/vector_stores", json={"name": "s"}).json()["id"]
        store_batch = acme.post(f"/v1/vector_stores/{store}/file_batches", json={"file_ids": [file]}).json()[
            "id"
        ]
        names["vector_store_id"] = store
        later = {"model": "m", "background": True}
        chat = acme.post(
            "/v1/chat/completions", json={**later, "messages": [{"role": "user", "content": "a"}]}
        )
        text = acme.post("/v1/completions", json={**later, "prompt": "a"})
        answers = {"chat": chat.json()["id"], "completions": text.json()["id"]}
        tried = 0
        for path, methods in described(gateway).items():
            if "{" not in path or path in OPERATORS:
                continue
            kind = path.split("/")[2]
            of_kind = names | ({"batch_id": store_batch} if kind == "vector_stores" else {})
            address = path.format(**of_kind, job_id=jobs.get(kind, ""), answer_id=answers.get(kind, ""))
            address += QUERIES.get(path, "").format(**of_kind)
            # Whoever puts content has it: nothing of another is seen by that.
            for method in sorted(methods.keys() - {"put"}):
                body = {"json": BODIES[path]} if method == "post" and path in BODIES else {}
                refused = rival.request(method.upper(), address, **body)
                assert (method, address, refused.status_code) == (method, address, 404), refused.text
                tried += 1
            if "get" in methods and not path.endswith(BY_WORKERS):
                expected = 202 if "{answer_id}" in path else 200  # nobody answers here
                assert (address, acme.get(address).status_code) == (address, expected)
        assert tried >= 30
        for path, cursor in (
            ("files", file),
            ("chat/completions", names["completion_id"]),
            ("fine_tuning/jobs", tune),
            ("evaluations", evaluation),
            ("training/searches", search_id),
            ("batches", batch),
            ("datasets", "ds-acme"),
            ("jobs", tune),
            ("webhooks", hook),
            ("traces", "a" * 32),
            ("alerts", "alert-1"),
            ("labelling/projects", project),
            ("vector_stores", store),
            ("evals", names["eval_id"]),
            ("sources", acme.get("/v1/sources/service").json()["id"]),
            ("checks", names["check_id"]),
        ):
            assert acme.get(f"/v1/{path}", params={"after": cursor}).status_code == 200, path
            refused = rival.get(f"/v1/{path}", params={"after": cursor})
            assert (path, refused.status_code, refused.json()["error"]["param"]) == (path, 400, "after")
        refused = rival.post("/v1/evaluations", json=wanted)
        assert refused.status_code == 404
        refused = rival.post(
            "/v1/training/jobs", json={"type": "pretrain", "name": "n", "training_file": "dsv-1"}
        )
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, "training_file")
        refused = rival.post("/v1/fine_tuning/jobs", json={"model": "m", "training_file": file})
        assert refused.status_code == 404
        refused = rival.post("/v1/batches", json={"input_file_id": rows, **window})
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, "input_file_id")
        refused = rival.post("/v1/datasets", json={"name": "d", "file_id": file})
        assert refused.status_code == 404
        listed = (
            "files",
            "models",
            "fine_tuning/jobs",
            "batches",
            "datasets",
            "jobs",
            "webhooks",
            "alerts",
            "usage",
        )
        for path in (*listed, "evaluations"):
            assert (path, rival.get(f"/v1/{path}").json()["data"]) == (path, [])
        assert acme.get(f"/v1/fine_tuning/jobs/{tune}").json()["status"] == "queued"


def test_a_tenant_sees_its_own_spans_and_an_operator_all(gateway: RunningGateway) -> None:
    with gateway.platform.db.core() as c:
        for number, name in enumerate(("acme", "rival")):
            c.execute(
                "INSERT INTO monitoring.span (trace_id, span_id, tenant_id, service, name, kind, start_ns, end_ns, "
                "status) VALUES (%s, 's', %s, 'heliu-gateway', 'GET /', 'server', %s, %s, 'ok')",
                (str(number) * 32, gateway.tenants[name], number, number + 5_000_000),
            )
    with gateway.http() as acme, gateway.http("operator") as op:
        assert [t["id"] for t in acme.get("/v1/traces").json()["data"]] == ["0" * 32]
        assert [t["id"] for t in op.get("/v1/traces").json()["data"]] == ["1" * 32, "0" * 32]
        assert acme.get(f"/v1/traces/{'0' * 32}").json()["spans"][0]["name"] == "GET /"
        assert acme.get(f"/v1/traces/{'1' * 32}").status_code == 404
        assert op.get(f"/v1/traces?after={'1' * 32}").json()["data"][0]["id"] == "0" * 32


def test_a_rate_limit_is_kept_in_postgres_and_says_when_to_come_back(gateway: RunningGateway) -> None:
    with gateway.http("operator") as op:
        made = op.post("/v1/keys", json={"name": "slow", "tenant": "acme", "requests_per_minute": 3})
    gateway.keys["slow"] = made.json()["key"]
    with gateway.http("slow") as client:
        answers = [client.get("/v1/files") for _ in range(8)]
    # The minute may turn once in between, and then three more are let through.
    statuses = [answer.status_code for answer in answers]
    assert statuses[:3] == [200, 200, 200]
    assert 2 <= statuses.count(429) <= 5
    assert [int(a.headers["x-ratelimit-remaining-requests"]) for a in answers[:1]] == [2]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["type"] == "rate_limit_error"
    with gateway.platform.db.core() as c:
        counted = c.execute("SELECT sum(requests)::int AS n FROM gateway.rate_window").fetchone()
    assert counted is not None
    assert counted["n"] >= 3


def test_requests_at_once_use_up_no_more_of_the_limit_than_they_are(gateway: RunningGateway) -> None:
    with gateway.http("operator") as op:
        made = op.post("/v1/keys", json={"name": "k", "tenant": "acme", "requests_per_minute": 1000})
    gateway.keys["busy"] = made.json()["key"]
    with ThreadPoolExecutor(16) as pool, gateway.http("busy") as client:
        answers = list(pool.map(lambda _: client.get("/v1/files"), range(200)))
    assert {answer.status_code for answer in answers} == {200}
    with gateway.platform.db.core() as c:
        counted = c.execute(
            "SELECT sum(requests)::int AS n FROM gateway.rate_window WHERE api_key_id = %s",
            (made.json()["id"],),
        ).fetchone()
    assert counted is not None
    # Taken ten at a time; the minute may turn in between and leave some unused.
    assert 200 <= counted["n"] <= 220


def test_without_auth_the_machines_user_is_the_default_operator(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    started = running_gateway(database_url, redis_url, tmp_path, auth="off")
    with started as open_gateway, open_gateway.http(None) as client:
        assert client.get("/v1/files").status_code == 200
        assert client.get("/v1/workers").status_code == 200


def test_a_bind_beyond_loopback_without_auth_is_refused() -> None:
    for host in ("0.0.0.0", "::", socket.gethostname(), "192.0.2.1"):
        with pytest.raises(ConfigurationError, match="would let anybody on the network"):
            read_settings({"HELIU_AUTH": "off", "HELIU_GATEWAY_HOST": host})


def test_an_idempotency_key_stands_for_one_job_in_each_tenant(gateway: RunningGateway) -> None:
    with gateway.http() as acme, gateway.http("rival") as rival:
        made = [
            client.post("/v1/jobs", json=body, headers={"idempotency-key": "one"})
            for client, body in ((acme, {"kind": "noop"}), (rival, {"kind": "noop", "steps": 1}))
        ]
    assert [answer.status_code for answer in made] == [200, 200]
    assert made[0].json()["id"] != made[1].json()["id"]
