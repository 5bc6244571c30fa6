"""A canary whose own answers break its rule loses its share, and history and webhook say by which numbers."""

from __future__ import annotations

import json
from typing import Any

import httpx
from psycopg.types.json import Jsonb

from services.monitoring import tasks
from services.monitoring.alerts import RULES
from tests.integration.gateway_app import RunningGateway
from tests.integration.registry_app import OPEN, gateway_on, make, ok, promote
from tests.integration.test_gateway_tasks import error

RULE = {
    "share": 0.2,
    "stop_when": {"error_rate_above": 0.1, "latency_p95_above_ms": 1000},
    "min_requests": 20,
}
USAGE = """
INSERT INTO gateway.usage (tenant_id, request_id, endpoint, model, pool, status, prompt_tokens, completion_tokens,
    seconds, job_id, metadata)
SELECT %(tenant)s, gen_random_uuid()::text, '/v1/chat/completions', 'two', 'default', %(status)s, 1, 1, %(seconds)s,
    %(job)s, jsonb_build_object('registry', %(name)s::text, 'registry_version', %(version)s::int)
FROM generate_series(1, %(n)s)"""


gateway, http = gateway_on("canaries")


def answers(
    gateway: RunningGateway,
    name: str,
    n: int,
    *,
    status: str = "ok",
    version: int = 2,
    seconds: float = 0.1,
    job: str | None = None,
) -> None:
    """Rows of the ledger, as that many live answers leave them."""
    given = {"n": n, "name": name, "status": status, "version": version, "seconds": seconds, "job": job}
    with gateway.platform.db.core() as c:
        c.execute(USAGE, {**given, "tenant": gateway.tenants["acme"]})


def start(http: httpx.Client, name: str, **more: Any) -> None:
    """A registered model whose second version gets the share that its rule says."""
    make(http, name, "one", "two", canary_rule=RULE)
    ok(promote(http, name, 1))
    shown = ok(http.post(f"/v1/registry/{name}/versions/2/canary", json=more))
    assert (shown["canary"], shown["canary_rule"]) == (
        {"version": 2, "share": more.get("share", 0.2)},
        RULE,
    )


def test_a_canary_that_fails_too_often_is_stopped_with_its_numbers(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    events = ["model.canary_stopped", "model.canary_ended"]
    hook = ok(http.post("/v1/webhooks", json={"url": "https://example.com/h", "events": events}))
    start(http, "failing")
    start(http, "healthy", share=0.5)
    db = gateway.platform.db
    assert tasks.stop_canaries(db) == 0
    # Failures of production, of a batch and of another name are not its own, and what a client gave up is nobody's.
    answers(gateway, "failing", 40, status="error", version=1)
    answers(gateway, "failing", 40, status="error", job="batch_1")
    answers(gateway, "failing", 40, status="cancelled")
    answers(gateway, "healthy", 40)
    answers(gateway, "failing", 15)
    answers(gateway, "failing", 4, status="error")
    assert tasks.stop_canaries(db) == 0
    answers(gateway, "failing", 1, status="error")
    assert tasks.stop_canaries(db) == 1
    assert tasks.stop_canaries(db) == 0
    shown = ok(http.get("/v1/registry/failing"))
    assert (shown["canary"], shown["production_version"], shown["canary_rule"]) == (None, 1, RULE)
    assert ok(http.get("/v1/registry/healthy"))["canary"] == {"version": 2, "share": 0.5}
    told = ok(http.get("/v1/registry/failing/history"))["data"][0]
    assert (told["action"], told["version"], told["created_by"]) == ("end_canary", 2, None)
    assert told["reason"] == "stopped: 25.0% of 20 answers failed, more than 10.0%"
    figures = told["data"]["stopped"]
    assert (figures["answers"], figures["errors"], figures["error_rate"], figures["rule"]) == (
        20,
        5,
        0.25,
        RULE,
    )
    with db.core() as c:
        query = "SELECT body FROM core.webhook_delivery WHERE endpoint_id = %s"
        (body,) = [json.loads(row["body"]) for row in c.execute(query, (hook["id"],)).fetchall()]
    assert body["type"] == "model.canary_stopped"
    assert body["data"] == {
        "registry": "failing",
        "model": "registry:failing",
        "version": 2,
        "reason": told["reason"],
        **figures,
    }
    # Begun anew it is judged anew.
    ok(http.post("/v1/registry/failing/versions/2/canary", json={"share": 0.1}))
    assert tasks.stop_canaries(db) == 0
    answers(gateway, "failing", 20, status="error")
    assert tasks.stop_canaries(db) == 1


def test_a_canary_that_is_too_slow_is_stopped_and_one_without_a_rule_goes_on(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    start(http, "slow")
    answers(gateway, "slow", 36, seconds=0.2)
    answers(gateway, "slow", 4, seconds=3.0)
    ok(http.post("/v1/registry/slow", json={"canary_rule": None}))
    assert ok(http.get("/v1/registry/slow"))["canary_rule"] is None
    assert tasks.stop_canaries(gateway.platform.db) == 0
    ok(http.post("/v1/registry/slow", json={"canary_rule": RULE, "reason": "as before"}))
    change = ok(http.get("/v1/registry/slow/history"))["data"][0]
    assert (
        change["action"],
        change["data"]["before"]["canary_rule"],
        change["data"]["after"]["canary_rule"],
    ) == (
        "settings",
        None,
        RULE,
    )
    # What else is changed leaves it.
    ok(http.post("/v1/registry/slow", json={"gates": {**OPEN, "margin": 0.1}}))
    assert ok(http.get("/v1/registry/slow"))["canary_rule"] == RULE
    assert tasks.stop_canaries(gateway.platform.db) == 1
    told = ok(http.get("/v1/registry/slow/history"))["data"][0]
    assert told["reason"] == "stopped: 95% of 40 answers were whole within 3000 ms, later than 1000 ms"


def test_a_rule_that_this_release_cannot_read_stops_neither_its_canary_nor_the_sweep(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    gates = ok(http.post("/v1/registry", json={"name": "pattern", "gates": OPEN}))["gates"]
    with gateway.as_tenant() as c:
        c.execute(
            "INSERT INTO gateway.registry (id, tenant_id, name, gates, canary_rule) "
            "VALUES ('reg-0', %s, 'newer', %s, %s)",
            (gateway.tenants["acme"], Jsonb(gates), Jsonb({"stop_when": {"of_tomorrow": 1}})),
        )
    for number, model in enumerate(("one", "two"), 1):
        ok(http.post("/v1/registry/newer/versions", json={"model": model}))
        ok(http.post(f"/v1/registry/newer/versions/{number}/stage", json={}))
    ok(promote(http, "newer", 1))
    ok(http.post("/v1/registry/newer/versions/2/canary", json={"share": 0.5}))
    start(http, "older")
    for name in ("newer", "older"):
        answers(gateway, name, 20, status="error")
    assert tasks.stop_canaries(gateway.platform.db) == 1
    assert ok(http.get("/v1/registry/newer"))["canary"] == {"version": 2, "share": 0.5}
    assert ok(http.get("/v1/registry/older"))["canary"] is None


def test_where_approval_is_asked_for_a_rule_is_not_loosened_by_one_key(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    make(http, "strict", "one", approval="required", canary_rule=RULE)
    waits = ok(http.post("/v1/registry/strict", json={"canary_rule": None}), 202)
    assert ok(http.get("/v1/registry/strict"))["canary_rule"] == RULE
    with gateway.http("second") as second:
        ok(second.post(f"/v1/registry/strict/requests/{waits['id']}/approve", json={}))
    assert ok(http.get("/v1/registry/strict"))["canary_rule"] is None


def test_a_wrong_rule_is_told_by_its_place(http: httpx.Client) -> None:
    def refused(rule: dict[str, Any]) -> tuple[int, str, str | None]:
        return error(http.post("/v1/registry", json={"name": "wrong", "canary_rule": rule}))

    assert refused({}) == (400, "missing_required_parameter", "canary_rule.stop_when")
    assert refused({"stop_when": {}}) == (400, "invalid_value", "canary_rule.stop_when")
    assert refused({"stop_when": {"errors": 1}}) == (400, "unknown_parameter", "canary_rule.stop_when.errors")
    assert refused({"stop_when": {"error_rate_above": 2}})[::2] == (
        400,
        "canary_rule.stop_when.error_rate_above",
    )
    make(http, "shareless", "one", "two", canary_rule={"stop_when": {"error_rate_above": 0.5}})
    ok(promote(http, "shareless", 1))
    answer = http.post("/v1/registry/shareless/versions/2/canary", json={})
    assert error(answer) == (400, "missing_required_parameter", "share")


def test_an_alert_on_its_model_ends_a_canary_and_nothing_else(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    hook = ok(
        http.post("/v1/webhooks", json={"url": "https://example.com/h", "events": ["model.canary_ended"]})
    )
    gateway.add_model("steady")
    gateway.add_model("failing")
    for name in ("watched", "spared"):
        make(http, name, "steady", "failing")
        ok(promote(http, name, 1))
        ok(http.post(f"/v1/registry/{name}/versions/2/canary", json={"share": 0.2}))
    ok(http.delete("/v1/registry/spared/canary"))
    ok(promote(http, "spared", 2))
    db = gateway.platform.db
    assert tasks.end_canaries(db, RULES) == 0
    with db.core() as c:
        c.execute(
            "INSERT INTO monitoring.alert (id, rule, subject, tenant_id, severity, message, value, threshold) "
            "VALUES ('alert_1', 'error_rate', 'acme/failing', %s, 'critical', 'half of 40 answers failed', 0.5, 0.1)",
            (gateway.tenants["acme"],),
        )
    assert tasks.end_canaries(db, [rule for rule in RULES if rule.name != "error_rate"]) == 0
    assert tasks.end_canaries(db, RULES) == 1
    assert tasks.end_canaries(db, RULES) == 0
    shown = ok(http.get("/v1/registry/watched"))
    assert (shown["canary"], shown["production_version"]) == (None, 1)
    assert ok(http.get("/v1/registry/spared"))["production_version"] == 2
    told = ok(http.get("/v1/registry/watched/history"))["data"][0]
    assert (told["action"], told["version"], told["created_by"]) == ("end_canary", 2, None)
    assert told["reason"] == "alert alert_1: half of 40 answers failed"
    # Begun anew while the model still fails, it ends at the next sweep.
    ok(http.post("/v1/registry/watched/versions/2/canary", json={"share": 0.2}))
    assert tasks.end_canaries(db, RULES) == 1
    with db.core() as c:
        c.execute("UPDATE monitoring.alert SET resolved_at = now()")
        query = "SELECT count(*) AS n FROM core.webhook_delivery WHERE endpoint_id = %s"
        row = c.execute(query, (hook["id"],)).fetchone()
    # One of them the caller's own.
    assert row == {"n": 3}
    ok(http.delete(f"/v1/webhooks/{hook['id']}"))
