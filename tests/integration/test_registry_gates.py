"""Gates of the model registry through a real gateway: what they ask, decisions, second keys, waivers, cards."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.integration.gateway_app import RunningGateway
from tests.integration.registry_app import (
    OPEN,
    add_eval,
    add_run,
    checks,
    gateway_on,
    make,
    ok,
    promote,
)
from tests.integration.test_gateway_tasks import error

gateway, http = gateway_on("registry_gates")


@pytest.fixture
def second(gateway: RunningGateway) -> Iterator[httpx.Client]:
    """Another key of the same tenant."""
    with gateway.http("second") as client:
        yield client


def test_a_gate_passes_blocks_or_cannot_say_and_no_route_leads_past_it(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    rules = {**OPEN, "eval_id": add_eval(gateway, "eval_gate"), "min_items": 50, "min_slice_items": 20}
    make(http, "gated", "one", "two", gates=rules)
    blocked = promote(http, "gated", 1)
    assert error(blocked) == (409, "promotion_blocked", "version")
    assert "no run of eval_gate with one has succeeded" in blocked.json()["error"]["message"]
    assert blocked.headers["x-should-retry"] == "false"
    champion = [float(number % 10 < 7) for number in range(120)]
    add_run(gateway, "eval_gate", "one", champion)
    ok(promote(http, "gated", 1))

    # Worse in one language, and better in the other.
    worse_in_zh = [1.0 if number % 2 == 0 else 0.0 for number in range(120)]
    add_run(gateway, "eval_gate", "two", worse_in_zh)
    told = ok(http.post("/v1/registry/gated/versions/2/gate", json={}))
    assert (told["verdict"], told["against"]) == ("failed", 1)
    assert checks(told)["slice:language=zh"] == "failed"
    assert checks(told)["slice:language=en"] == "passed"
    for way in (
        lambda: promote(http, "gated", 2),
        lambda: promote(http, "gated", 2, decision=told["id"]),
        lambda: http.post("/v1/registry/gated/versions/2/canary", json={"share": 0.1}),
    ):
        assert error(way()) == (409, "promotion_blocked", "version")

    # Too few items say nothing.
    add_run(gateway, "eval_gate", "two", champion[:30])
    few = ok(http.post("/v1/registry/gated/versions/2/gate", json={}))
    assert few["verdict"] == "failed"
    assert checks(few)["same_items"] == "failed"
    assert checks(few)["items"] == checks(few)["quality"] == "inconclusive"

    # As good, item for item.
    run = add_run(gateway, "eval_gate", "registry:gated@2", champion)
    passed = ok(http.post("/v1/registry/gated/versions/2/gate", json={"candidate_run": run}))
    assert passed["verdict"] == "passed"
    assert passed["record"]["runs"]["candidate"]["id"] == run
    ok(promote(http, "gated", 2, decision=passed["id"]))
    stale = error(promote(http, "gated", 2, decision=passed["id"]))
    assert stale[1] == "illegal_transition"


def test_a_decision_is_replayed_and_cannot_be_changed(gateway: RunningGateway, http: httpx.Client) -> None:
    rules = {
        **OPEN,
        "eval_id": add_eval(gateway, "eval_replay"),
        "min_items": 20,
        "require_improvement": True,
    }
    make(http, "again", "one", "two", gates=rules)
    add_run(gateway, "eval_replay", "one", [0.1 * (number % 7) for number in range(60)])
    ok(promote(http, "again", 1))
    add_run(gateway, "eval_replay", "two", [0.1 * (number % 7) + 0.3 for number in range(60)])
    made = ok(http.post("/v1/registry/again/versions/2/gate", json={}))
    assert made["verdict"] == "passed"
    place = f"/v1/registry/again/decisions/{made['id']}"
    shown = ok(http.get(place, params={"replay": True}))
    assert (shown["replay"]["same"], shown["replay"]["intact"]) == (True, True)
    assert shown["checks"] == made["checks"]
    with gateway.as_tenant() as c, pytest.raises(psycopg.errors.InsufficientPrivilege):
        c.execute("UPDATE gateway.registry_decision SET checks = '[]' WHERE id = %s", (made["id"],))
    with gateway.as_tenant() as c:
        c.execute(
            "DELETE FROM training.eval_item WHERE run_id = %s", (made["record"]["runs"]["candidate"]["id"],)
        )
    assert error(http.get(place, params={"replay": True})) == (409, "conflict", "decision_id")
    listed = ok(http.get("/v1/registry/again/decisions", params={"version": 2}))["data"]
    assert [row["id"] for row in listed] == [made["id"]]


def test_parity_and_the_data_gate_are_asked_of_what_was_trained_here(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    gateway.add_version("dsv-bad", passed=False)
    gateway.add_version("dsv-good")
    info = {"parity": {"passed": True, "max_abs_difference": 1e-6, "tolerance": 1e-3, "rows": 8}}
    models = {
        "of-file": ("file-1", info),
        "of-bad": ("dsv-bad", info),
        "of-good": ("dsv-good", info),
        "no-parity": ("dsv-good", {}),
        "differs": ("dsv-good", {"parity": {**info["parity"], "passed": False}}),
    }
    for name, (data, about) in models.items():
        gateway.add_model(name)
        with gateway.as_tenant() as c:
            c.execute(
                "UPDATE training.model SET dataset_version = %s, info = %s WHERE id = %s",
                (data, Jsonb(about), name),
            )
    make(http, "trained", *models, gates={})
    got = {}
    for number, name in enumerate(models, 1):
        told = checks(ok(http.post(f"/v1/registry/trained/versions/{number}/gate", json={})))
        got[name] = (told["parity"], told["data_gate"])
    assert got == {
        "of-file": ("passed", "failed"),
        "of-bad": ("passed", "failed"),
        "of-good": ("passed", "passed"),
        "no-parity": ("failed", "passed"),
        "differs": ("failed", "passed"),
    }
    for number, status in ((1, 409), (2, 409), (3, 200), (4, 409), (5, 409)):
        assert promote(http, "trained", number).status_code == status


def test_a_model_is_not_tested_on_what_it_learned_from(gateway: RunningGateway, http: httpx.Client) -> None:
    gateway.add_version("dsv-own")
    gateway.add_model("learned")
    info = {"parity": {"passed": True}}
    with gateway.as_tenant() as c:
        c.execute(
            "UPDATE training.model SET dataset_version = 'dsv-own', info = %s WHERE id = 'learned'",
            (Jsonb(info),),
        )
    rules = {"eval_id": add_eval(gateway, "eval_own"), "min_items": 20}
    make(http, "learner", "learned", gates=rules)
    for split, outcome in (("train", "failed"), ("all", "failed"), ("validation", "not_applicable")):
        add_run(gateway, "eval_own", "learned", [1.0] * 30, items_of=("dsv-own", split))
        told = ok(http.post("/v1/registry/learner/versions/1/gate", json={}))
        assert checks(told)["leakage"] == outcome
    ok(promote(http, "learner", 1))


def test_a_promotion_waits_for_another_key_where_approval_is_required(
    http: httpx.Client, second: httpx.Client
) -> None:
    make(http, "careful", "one", approval="required")
    waits = ok(promote(http, "careful", 1, reason="ready"), 202)
    assert (waits["status"], waits["action"], waits["version"]) == ("pending", "promote", 1)
    assert ok(http.get("/v1/registry/careful"))["production_version"] is None
    approve = f"/v1/registry/careful/requests/{waits['id']}/approve"
    assert error(http.post(approve, json={})) == (403, "own_request", None)
    assert ok(second.post(approve, json={}))["production_version"] == 1
    assert error(second.post(approve, json={}))[0] == 409
    told = ok(http.get("/v1/registry/careful/history"))["data"][0]
    assert told["request"] == waits["id"]
    assert told["created_by"] != told["approved_by"] is not None

    # Nor is the rule itself, or a gate, taken away by one key alone.
    asked = ok(http.post("/v1/registry/careful", json={"approval": "none"}), 202)
    assert ok(http.get("/v1/registry/careful"))["approval"] == "required"
    assert [row["id"] for row in ok(second.get("/v1/registry/careful/requests?open=true"))["data"]] == [
        asked["id"]
    ]
    no = second.post(f"/v1/registry/careful/requests/{asked['id']}/reject", json={"reason": "no"})
    assert ok(no)["status"] == "rejected"
    late = second.post(f"/v1/registry/careful/requests/{asked['id']}/approve", json={})
    assert error(late)[:2] == (409, "request_answered")
    again = ok(http.post("/v1/registry/careful", json={"approval": "none", "gates": OPEN}), 202)
    assert (
        ok(second.post(f"/v1/registry/careful/requests/{again['id']}/approve", json={}))["approval"] == "none"
    )


def test_a_name_that_asks_a_second_key_is_not_deleted_by_one(
    gateway: RunningGateway, http: httpx.Client, second: httpx.Client
) -> None:
    make(http, "guarded", "one", approval="required")
    assert error(http.delete("/v1/registry/guarded")) == (409, "approval_required", None)
    delete = "UPDATE gateway.registry SET deleted_at = now() WHERE name = 'guarded'"
    with gateway.as_tenant() as c, pytest.raises(psycopg.errors.CheckViolation):
        c.execute(delete)
    asked = ok(http.post("/v1/registry/guarded", json={"approval": "none"}), 202)
    ok(second.post(f"/v1/registry/guarded/requests/{asked['id']}/approve", json={}))
    ok(http.delete("/v1/registry/guarded"))
    with gateway.as_tenant() as c, pytest.raises(psycopg.errors.CheckViolation):
        c.execute("UPDATE gateway.registry SET deleted_at = NULL WHERE name = 'guarded'")


def test_a_waiver_lets_one_check_through_for_another_key_until_it_expires(
    gateway: RunningGateway, http: httpx.Client, second: httpx.Client
) -> None:
    rules = {**OPEN, "eval_id": add_eval(gateway, "eval_waived"), "min_items": 50}
    make(http, "waived", "one", gates=rules)
    add_run(gateway, "eval_waived", "one", [1.0] * 10)
    assert error(promote(http, "waived", 1))[1] == "promotion_blocked"
    place = "/v1/registry/waived/versions/1/waivers"
    assert error(http.post(place, json={"check": "parity", "reason": "x"})) == (400, "invalid_value", "check")
    made = ok(http.post(place, json={"check": "items", "reason": "looked at by hand", "days": 1}))
    assert made["expires_at"] > datetime.now(UTC).timestamp()
    # Whoever waives does not use it.
    assert error(promote(http, "waived", 1))[1] == "promotion_blocked"
    told = ok(second.post("/v1/registry/waived/versions/1/gate", json={}))
    waived = next(check for check in told["checks"] if check["name"] == "items")
    assert (waived["outcome"], waived["was"], waived["waiver"]) == ("waived", "inconclusive", made["id"])
    assert error(promote(http, "waived", 1, decision=told["id"]))[1] == "waiver_invalid"
    ok(promote(second, "waived", 1, decision=told["id"]))


def test_a_decision_falls_with_the_gates_that_it_was_made_by(http: httpx.Client) -> None:
    make(http, "moving", "one")
    told = ok(http.post("/v1/registry/moving/versions/1/gate", json={}))
    ok(http.post("/v1/registry/moving", json={"gates": {**OPEN, "margin": 0.01}}))
    assert error(promote(http, "moving", 1, decision=told["id"]))[1] == "decision_stale"
    change = ok(http.get("/v1/registry/moving/history"))["data"][0]
    assert (change["action"], change["data"]["after"]["gates"]["margin"]) == ("settings", 0.01)


def test_the_card_tells_what_is_known_and_no_text_of_others_is_markup(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    gateway.add_version("dsv-card")
    gateway.add_model("carded")
    info = {
        "context_length": 256,
        "held_out": {"accuracy": 0.9},
        "baseline": {"accuracy": 0.5},
        "parity": {"passed": True, "max_abs_difference": 0.0, "tolerance": 0.001, "rows": 4},
        "lineage": {
            "job_kind": "training.fine_tune",
            "seed": 7,
            "hyperparameters": {"learning_rate": 0.001},
            "code": {"version": "0.1.0"},
            "libraries": {"torch": "2.13"},
            "trace_id": "abc",
        },
    }
    with gateway.as_tenant() as c:
        c.execute(
            "UPDATE training.model SET dataset_version = 'dsv-card', info = %s WHERE id = 'carded'",
            (Jsonb(info),),
        )
    rules = {"eval_id": add_eval(gateway, "eval_card"), "min_items": 20}
    ok(http.post("/v1/registry", json={"name": "cards", "gates": rules}))
    note = "<script>alert(1)</script> | **bold** [x](javascript:1)\n# head"
    ok(http.post("/v1/registry/cards/versions", json={"model": "carded", "note": note}))
    add_run(gateway, "eval_card", "carded", [1.0, 0.0] * 15)
    ok(http.post("/v1/registry/cards/versions/1/stage", json={}))
    ok(promote(http, "cards", 1))
    card = ok(http.get("/v1/registry/cards/versions/1/card"))
    assert (card["registered"]["stage"], card["training"]["seed"]) == ("production", 7)
    assert card["data"]["version"] == "dsv-card"
    assert card["metrics"] == {"held_out": {"accuracy": 0.9}, "baseline": {"accuracy": 0.5}}
    (run,) = card["evaluations"]
    assert (run["items"], run["mean"], run["low"] < 0.5 < run["high"]) == (30, 0.5, True)
    assert {row["slice"] for row in run["slices"]} == {"language=en", "language=zh"}
    assert card["gate"]["verdict"] == "passed"
    assert [event["action"] for event in card["history"]] == ["promote", "stage", "register"]
    shown = http.get("/v1/registry/cards/versions/1/card", params={"format": "md"})
    assert shown.headers["content-type"].startswith("text/markdown")
    assert "<script" not in shown.text
    assert "\n# head" not in shown.text
    assert "](javascript" not in shown.text
    assert "language" in shown.text
    plain = ok(http.get("/v1/models/carded/card"))
    assert (plain["registered"], plain["history"], plain["data"]["version"]) == (None, [], "dsv-card")
    assert error(http.get("/v1/models/nothing/card")) == (404, "model_not_found", "model")
    assert error(http.get("/v1/models/carded/card?format=pdf"))[0] == 400
