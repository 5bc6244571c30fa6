"""Registered names as clients call them, through a real gateway and the echo worker: who answers, from when on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.integration.gateway_app import RunningGateway, neighbour
from tests.integration.registry_app import (
    ask,
    gateway_on,
    make,
    ok,
    promote,
)
from tests.integration.test_gateway_tasks import echo_worker, error, wait_until

gateway, http = gateway_on("registry_calls")


@pytest.fixture(scope="module")
def _worker(gateway: RunningGateway) -> Iterator[None]:
    with echo_worker(gateway):
        yield


def answered_by(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    label = answer.headers["x-heliu-registry-version"]
    assert answer.json()["model"] == f"registry:{label}"
    return label


@pytest.mark.usefixtures("_worker")
def test_the_openai_client_asks_a_registered_name_and_the_ledger_says_which_version(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    make(http, "named", "one", "two")
    assert error(ask(http, "registry:named")) == (404, "model_not_found", "model")
    assert ok(promote(http, "named", 1))["production_version"] == 1
    spans = InMemorySpanExporter()
    gateway.platform.tracing._provider.add_span_processor(SimpleSpanProcessor(spans))
    client = gateway.openai()
    raw = client.chat.completions.with_raw_response.create(
        model="registry:named", messages=[{"role": "user", "content": "hello"}]
    )
    assert (raw.parse().model, raw.parse().choices[0].message.content) == ("registry:named@1", "hello")
    stream = client.chat.completions.create(
        model="registry:named@2", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    assert {chunk.model for chunk in stream} == {"registry:named@2"}

    def rows() -> list[dict[str, Any]]:
        with gateway.as_tenant() as c:
            query = "SELECT model, metadata FROM gateway.usage WHERE request_id = %s"
            return c.execute(query, (raw.headers["x-request-id"],)).fetchall()

    assert wait_until(rows, "the usage row") == [
        {"model": "one", "metadata": {"registry": "named", "registry_version": 1}}
    ]
    listed = ok(http.get("/v1/registry/named/versions"))["data"]
    assert [(row["version"], row["stage"], row["share"]) for row in listed] == [
        (2, "staging", 0.0),
        (1, "production", 1.0),
    ]
    assert listed[1]["usage"]["requests"] == 1
    told = [span.attributes or {} for span in spans.get_finished_spans()]
    assert {
        (a["heliu.registry.name"], a["heliu.registry.version"]) for a in told if "heliu.registry.name" in a
    } == {
        ("named", 1),
        ("named", 2),
    }


@pytest.mark.usefixtures("_worker")
def test_a_rollback_takes_effect_on_the_next_request(gateway: RunningGateway, http: httpx.Client) -> None:
    make(http, "back", "one", "two", "three")
    for number in (1, 2, 3):
        ok(promote(http, "back", number))
        assert answered_by(ask(http, "registry:back")) == f"back@{number}"
    for number in (2, 1):
        rolled = ok(http.post("/v1/registry/back/rollback", json={"reason": f"to {number}"}))
        assert rolled["production_version"] == number
        assert answered_by(ask(http, "registry:back")) == f"back@{number}"
    assert error(http.post("/v1/registry/back/rollback", json={})) == (409, "nothing_before", None)
    # Nor does any other gateway remember what was.
    with neighbour(gateway) as url, httpx.Client(base_url=url, headers=http.headers, timeout=30) as other:
        assert answered_by(ask(other, "registry:back")) == "back@1"
    wrong = http.post("/v1/registry/back/rollback", json={"from_version": 3})
    assert wrong.status_code == 409
    stages = [row["stage"] for row in ok(http.get("/v1/registry/back/versions"))["data"]]
    assert stages == ["archived", "archived", "production"]
    told = ok(http.get("/v1/registry/back/history"))["data"]
    assert [(e["action"], e["production"], e["reason"]) for e in told[:3]] == [
        ("rollback", 1, "to 1"),
        ("rollback", 2, "to 2"),
        ("promote", 3, None),
    ]
    # By the decision that let it in before.
    first = next(event for event in told if event["action"] == "promote" and event["production"] == 1)
    assert told[0]["decision"] == first["decision"]
    # What was rolled back comes again by the gate alone.
    assert error(promote(http, "back", 3))[1] == "illegal_transition"
    ok(http.post("/v1/registry/back/versions/3/stage", json={}))
    ok(promote(http, "back", 3))
    assert answered_by(ask(http, "registry:back")) == "back@3"


@pytest.mark.usefixtures("_worker")
def test_a_canary_gets_its_share_and_keeps_its_users_until_it_ends(http: httpx.Client) -> None:
    make(http, "bird", "one", "two")
    early = http.post("/v1/registry/bird/versions/2/canary", json={"share": 0.5})
    assert error(early)[:2] == (409, "illegal_transition")
    ok(promote(http, "bird", 1))
    for share in (0, 0.00001, 1, 1e308):
        refused = http.post("/v1/registry/bird/versions/2/canary", json={"share": share})
        assert error(refused) == (400, "invalid_value", "share")
    shown = ok(http.post("/v1/registry/bird/versions/2/canary", json={"share": 0.5}))
    assert shown["canary"] == {"version": 2, "share": 0.5}
    got: dict[str, set[str]] = {}
    for user in [f"u{number}" for number in range(10)] * 2:
        got.setdefault(user, set()).add(answered_by(ask(http, "registry:bird", user=user)))
    assert all(len(versions) == 1 for versions in got.values())
    assert set.union(*got.values()) == {"bird@1", "bird@2"}
    archived = http.post("/v1/registry/bird/versions/2/archive", json={})
    assert error(archived)[:2] == (409, "illegal_transition")
    assert ok(http.delete("/v1/registry/bird/canary"))["canary"] is None
    assert {answered_by(ask(http, "registry:bird", user=user)) for user in got} == {"bird@1"}
    assert error(http.delete("/v1/registry/bird/canary"))[:2] == (409, "illegal_transition")


@pytest.mark.usefixtures("_worker")
def test_a_task_on_a_registered_name_follows_its_promotions(http: httpx.Client) -> None:
    make(http, "under", "one", "two")
    spec = {"model": "registry:under", "prompt": "{{ text }}", "variables": {"text": {}}}
    early = http.post("/v1/tasks", json={"name": "upon", "spec": spec})
    assert error(early) == (404, "model_not_found", "spec.model")
    ok(promote(http, "under", 1))
    ok(http.post("/v1/tasks", json={"name": "upon", "spec": spec}))
    for number in (1, 2):
        answer = ask(http, "task:upon")
        assert (answer.json()["model"], answer.headers["x-heliu-registry-version"]) == (
            "task:upon@1",
            f"under@{number}",
        )
        if number == 1:
            ok(promote(http, "under", 2))
    assert error(http.delete("/v1/registry/under")) == (409, "model_in_use", "name")
    ok(http.delete("/v1/tasks/upon"))
    ok(http.delete("/v1/registry/under"))
    assert error(ask(http, "registry:under")) == (404, "model_not_found", "model")
