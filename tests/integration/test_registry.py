"""The model registry through a real gateway: what is listed, moved at once, told to webhooks, and refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from tests.integration.gateway_app import RunningGateway
from tests.integration.registry_app import (
    ask,
    gateway_on,
    make,
    ok,
    promote,
)
from tests.integration.test_gateway_tasks import error

gateway, http = gateway_on("registry")


def test_models_lists_what_may_be_given_as_model(gateway: RunningGateway, http: httpx.Client) -> None:
    make(http, "listed", "one", "two", "three")
    spec = {"model": "registry:listed", "prompt": "{{ text }}", "variables": {"text": {}}}
    client = gateway.openai()
    assert "registry:listed" not in {model.id for model in client.models.list()}
    for path in ("registry:listed", "registry:listed@9", "registry:nobody", "task:nobody"):
        assert error(http.get(f"/v1/models/{path}")) == (404, "model_not_found", "model")
    ok(promote(http, "listed", 1))
    ok(http.post("/v1/registry/listed/versions/2/canary", json={"share": 0.25}))
    ok(http.post("/v1/tasks", json={"name": "listed", "spec": spec}))

    listed = {one["id"]: one for one in ok(http.get("/v1/models"))["data"]}
    assert {"one", "two", "registry:listed", "task:listed"} <= listed.keys()
    one = listed["registry:listed"]
    alone = ok(http.get("/v1/models/registry:listed"))
    assert alone == {**one, "decoding": alone["decoding"]}
    assert (one["object"], one["owned_by"], one["kind"], one["model_kind"]) == (
        "model",
        "acme",
        "registered_model",
        "base",
    )
    assert (one["version"], one["model"]) == (1, "one")
    assert one["versions"] == [
        {"version": 1, "share": 0.75, "model": "one"},
        {"version": 2, "share": 0.25, "model": "two"},
    ]
    task = listed["task:listed"]
    alone = ok(http.get("/v1/models/task:listed"))
    assert alone == {**task, "decoding": alone["decoding"]}
    assert (task["kind"], task["model_kind"], task["version"], task["model"]) == (
        "task",
        "base",
        1,
        "registry:listed",
    )
    assert one.keys() == task.keys() == {*listed["one"], "model_kind", "version", "model", "versions"}
    # What is in production is told first, however large the canary's share.
    ok(http.post("/v1/registry/listed/versions/2/canary", json={"share": 0.9}))
    assert ok(http.get("/v1/models/registry:listed"))["version"] == 1
    # As any client of OpenAI's reads them; one version alone is told too, whatever its stage.
    assert client.models.retrieve("registry:listed").id == "registry:listed"
    third = client.models.retrieve("registry:listed@3").model_dump()
    assert (third["id"], third["version"], third["model"]) == ("registry:listed@3", 3, "three")
    assert client.models.retrieve("task:listed@1").id == "task:listed@1"
    with gateway.http("rival") as rival:
        assert not {"registry:listed", "task:listed"} & {
            one["id"] for one in ok(rival.get("/v1/models"))["data"]
        }
    assert error(http.delete("/v1/models/task:listed")) == (400, "invalid_value", "model")
    ok(http.delete("/v1/tasks/listed"))
    ok(http.delete("/v1/registry/listed"))
    assert not {"registry:listed", "task:listed"} & {model.id for model in client.models.list()}


def test_of_two_promotions_at_once_one_wins(gateway: RunningGateway, http: httpx.Client) -> None:
    make(http, "race", "one", "two", "three")
    ok(promote(http, "race", 1))
    decisions = {
        number: ok(http.post(f"/v1/registry/race/versions/{number}/gate", json={}))["id"] for number in (2, 3)
    }

    def one(number: int) -> httpx.Response:
        with gateway.http() as client:
            return promote(client, "race", number, decision=decisions[number])

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(one, (2, 3)))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    lost = next(answer for answer in answers if answer.status_code == 409)
    assert error(lost)[1] == "decision_stale"
    won = next(answer for answer in answers if answer.status_code == 200).json()["production_version"]
    assert ok(http.get("/v1/registry/race"))["production_version"] == won
    # And of two roll-backs at once, one: nobody goes two back by accident.
    with ThreadPoolExecutor(2) as pool:
        bodies = [{"from_version": won}] * 2
        rolled = list(pool.map(lambda body: http.post("/v1/registry/race/rollback", json=body), bodies))
    assert sorted(answer.status_code for answer in rolled) == [200, 409]
    assert ok(http.get("/v1/registry/race"))["production_version"] == 1


def test_each_change_queues_its_webhook(gateway: RunningGateway, http: httpx.Client) -> None:
    wanted = [
        "model.registered",
        "model.staged",
        "model.promoted",
        "model.promotion_blocked",
        "model.rolled_back",
        "model.archived",
    ]
    hook = ok(http.post("/v1/webhooks", json={"url": "https://example.com/h", "events": wanted}))
    make(http, "hooked", "one", "two")
    ok(promote(http, "hooked", 1))
    ok(promote(http, "hooked", 2))
    ok(http.post("/v1/registry/hooked/rollback", json={}))
    ok(http.post("/v1/registry/hooked", json={"gates": {"data_gate": "required"}}))
    ok(http.post("/v1/registry/hooked/versions/2/stage", json={}))
    assert error(promote(http, "hooked", 2))[1] == "promotion_blocked"
    with gateway.platform.db.core() as c:
        query = "SELECT body FROM core.webhook_delivery WHERE endpoint_id = %s ORDER BY created_at, id"
        bodies = [json.loads(row["body"]) for row in c.execute(query, (hook["id"],)).fetchall()]
    told = [(body["type"], body["data"].get("version")) for body in bodies]
    expected = {
        "model.registered": [1, 2],
        "model.staged": [1, 2, 2],
        "model.promoted": [1, 2],
        "model.rolled_back": [1],
        "model.promotion_blocked": [2],
        "model.archived": [1, 2],
    }
    assert {type_: sorted(v for t, v in told if t == type_) for type_ in expected} == expected
    assert len(told) == 11
    assert {body["data"]["registry"] for body in bodies} == {"hooked"}
    ok(http.delete(f"/v1/webhooks/{hook['id']}"))


def test_another_tenant_sees_calls_and_moves_none_of_it(gateway: RunningGateway, http: httpx.Client) -> None:
    make(http, "mine", "one")
    decision = ok(http.post("/v1/registry/mine/versions/1/gate", json={}))["id"]
    with gateway.http("rival") as rival:
        assert ok(rival.get("/v1/registry"))["data"] == []
        for answer in (
            rival.get("/v1/registry/mine"),
            rival.get("/v1/registry/mine/versions/1/card"),
            rival.get(f"/v1/registry/mine/decisions/{decision}"),
            promote(rival, "mine", 1, decision=decision),
            rival.post("/v1/registry/mine/rollback", json={}),
            rival.delete("/v1/registry/mine"),
        ):
            assert answer.status_code == 404
        assert error(ask(rival, "registry:mine@1")) == (404, "model_not_found", "model")
        # The name is theirs too, and means their own.
        make(rival, "mine", "two")
        assert ok(rival.get("/v1/registry/mine/versions/1"))["model_id"] == "two"
    with gateway.as_tenant() as c:
        row = c.execute("SELECT id FROM gateway.registry WHERE name = 'mine'").fetchone()
        assert row is not None
    move = "SELECT gateway.registry_move(%s, 'archive', 1, NULL, NULL, NULL, NULL, NULL, NULL)"
    with gateway.as_tenant("rival") as c, pytest.raises(psycopg.errors.CheckViolation) as caught:
        c.execute(move, (row["id"],))
    assert caught.value.diag.constraint_name == "not_found"


def test_what_is_wrong_is_told_by_its_place(gateway: RunningGateway, http: httpx.Client) -> None:
    make(http, "strict", "one")
    add = "/v1/registry/strict/versions"
    for answer, told in (
        (http.post("/v1/registry", json={"name": "Strict"}), (400, "invalid_value", "name")),
        (http.post("/v1/registry", json={"name": "strict"}), (409, "already_exists", "name")),
        (
            http.post("/v1/registry", json={"name": "x", "gates": {"margn": 0.1}}),
            (400, "unknown_parameter", "gates.margn"),
        ),
        (
            http.post("/v1/registry", json={"name": "x", "gates": {"eval_id": "eval_no"}}),
            (404, "not_found", "gates.eval_id"),
        ),
        (
            http.post("/v1/registry", json={"name": "x", "gates": {"require_improvement": True}}),
            (400, "invalid_value", "gates"),
        ),
        (http.post(add, json={"model": "onee"}), (404, "model_not_found", "model")),
        (http.post(add, json={"model": "registry:strict"}), (400, "invalid_value", "model")),
        (promote(http, "strict", 2), (404, "not_found", "version")),
        (promote(http, "strict", 1, decision="dec-x"), (404, "not_found", "decision")),
        (promote(http, "strikt", 1), (404, "not_found", "name")),
        (http.get("/v1/registry?after=reg-x"), (400, "invalid_value", "after")),
        (http.get("/v1/registry/strict/history?after=x"), (400, "invalid_value", "after")),
        (ask(http, "registry:strict@99999999"), (400, "invalid_value", "model")),
        (ask(http, "registry:strict@7"), (404, "model_not_found", "model")),
        (ask(http, "registry:"), (400, "invalid_value", "model")),
    ):
        assert error(answer) == told, answer.text
    assert ok(http.post(add, json={"model": "one"}))["version"] == 1
