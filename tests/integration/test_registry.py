"""The model registry through a real gateway and the echo worker: versions, gates, promotion, canary, roll-back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from psycopg.types.json import Jsonb

from services.monitoring import tasks
from services.monitoring.alerts import RULES
from shared import bootstrap
from shared.contracts.model_registry import LEGAL
from shared.jobs import new_id
from tests import servers
from tests.conftest import TEMPLATE
from tests.integration.gateway_app import PEPPER, RunningGateway, neighbour, running_gateway
from tests.integration.test_gateway_tasks import echo_worker, error, wait_until

OPEN = {"data_gate": "where_known"}
OUTCOMES = ("outcome", "n")


@pytest.fixture(scope="module")
def gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """One for all: each test has names of its own."""
    url = servers.new_database(postgres.url, "registry", template=TEMPLATE)
    with running_gateway(url, valkey.url, tmp_path_factory.mktemp("gateway")) as running:
        for tenant in ("acme", "rival"):
            for model in ("one", "two", "three"):
                running.add_model(model, tenant=tenant)
        with running.platform.db.core() as c:
            _, running.keys["second"] = bootstrap.create_key(
                c, running.tenants["acme"], "second", "tenant", PEPPER
            )
        yield running
    servers.drop_database(postgres.url, "registry")


@pytest.fixture(scope="module")
def _worker(gateway: RunningGateway) -> Iterator[None]:
    with echo_worker(gateway):
        yield


@pytest.fixture
def http(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with gateway.http() as client:
        yield client


@pytest.fixture
def second(gateway: RunningGateway) -> Iterator[httpx.Client]:
    """Another key of the same tenant."""
    with gateway.http("second") as client:
        yield client


def ok(answer: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def make(http: httpx.Client, name: str, *models: str, gates: dict[str, Any] = OPEN, **more: Any) -> None:
    """A registered model whose versions are in staging."""
    ok(http.post("/v1/registry", json={"name": name, "gates": gates, **more}))
    for number, model in enumerate(models, 1):
        assert ok(http.post(f"/v1/registry/{name}/versions", json={"model": model}))["version"] == number
        ok(http.post(f"/v1/registry/{name}/versions/{number}/stage", json={}))


def promote(http: httpx.Client, name: str, number: int, **body: Any) -> httpx.Response:
    return http.post(f"/v1/registry/{name}/versions/{number}/promote", json=body)


def ask(http: httpx.Client, model: str, **body: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "hello"}]
    return http.post("/v1/chat/completions", json={"model": model, "messages": messages, **body})


def answered_by(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    label = answer.headers["x-heliu-registry-version"]
    assert answer.json()["model"] == f"registry:{label}"
    return label


def add_eval(gateway: RunningGateway, eval_id: str) -> str:
    with gateway.as_tenant() as c:
        c.execute(
            "INSERT INTO training.eval (id, tenant_id, name, data_source_config, testing_criteria) "
            "VALUES (%s, %s, 'refunds', '{}', '[]')",
            (eval_id, gateway.tenants["acme"]),
        )
    return eval_id


def add_run(
    gateway: RunningGateway,
    eval_id: str,
    model: str,
    scores: Sequence[float],
    *,
    items_of: tuple[str, str] | None = None,
) -> str:
    """A run as an evaluation leaves it: items in two languages."""
    run, tenant = new_id("evalrun_"), gateway.tenants["acme"]
    with gateway.as_tenant() as c:
        c.execute(
            "INSERT INTO core.job (id, tenant_id, kind, queue, state, payload, max_attempts, max_crashes, finished_at) "
            "VALUES (%s, %s, 'eval.run', 'training.light', 'succeeded', %s, 1, 1, now())",
            (run, tenant, Jsonb({"items": {"id": items_of[0]}} if items_of else {})),
        )
        c.execute(
            "INSERT INTO training.eval_run (id, tenant_id, eval_id, name, model, data_source) "
            "VALUES (%s, %s, %s, 'run', %s, %s)",
            (run, tenant, eval_id, model, Jsonb({"source": {"split": items_of[1]}} if items_of else {})),
        )
        for number, score in enumerate(scores):
            c.execute(
                "INSERT INTO training.eval_item (run_id, item_no, tenant_id, item_key, cluster, passed, score, scores,"
                " slices, body) VALUES (%s, %s, %s, %s, %s, %s, %s, '{}', %s, '{}')",
                (
                    run,
                    number,
                    tenant,
                    f"item-{number}",
                    f"item-{number}",
                    score > 0.5,
                    score,
                    Jsonb({"language": "zh" if number % 2 else "en"}),
                ),
            )
    return run


def checks(decision: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in decision["checks"]}


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
    assert one == ok(http.get("/v1/models/registry:listed"))
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
    assert task == ok(http.get("/v1/models/task:listed"))
    assert (task["kind"], task["model_kind"], task["version"], task["model"]) == (
        "task",
        "base",
        1,
        "registry:listed",
    )
    assert one.keys() == task.keys() == {*listed["one"], "model_kind", "version", "model", "versions"}
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


def test_a_stage_is_changed_by_no_statement_of_a_tenant(gateway: RunningGateway, http: httpx.Client) -> None:
    make(http, "locked", "one", "two")
    ok(promote(http, "locked", 1))
    for statement in (
        "UPDATE gateway.registry_version SET stage = 'production' WHERE version = 2",
        "UPDATE gateway.registry SET head_id = NULL",
        "UPDATE gateway.registry SET gates = '{}'",
        "UPDATE gateway.registry_event SET production = 2",
        "DELETE FROM gateway.registry_event",
        "INSERT INTO gateway.registry_event (tenant_id, registry_id, action, production) "
        "SELECT tenant_id, id, 'promote', 2 FROM gateway.registry",
        "INSERT INTO gateway.registry_version (registry_id, version, tenant_id, model_id, stage) "
        "SELECT id, 9, tenant_id, 'three', 'production' FROM gateway.registry",
        "INSERT INTO gateway.registry_answer (request_id, tenant_id, approved) SELECT 'x', tenant_id, true "
        "FROM gateway.registry",
    ):
        with gateway.as_tenant() as c, pytest.raises(psycopg.errors.InsufficientPrivilege):
            c.execute(statement)
    with gateway.as_tenant() as c:
        row = c.execute("SELECT id FROM gateway.registry WHERE name = 'locked'").fetchone()
        assert row is not None
        registry = row["id"]
    move = "SELECT gateway.registry_move(%s, 'promote', 2, NULL, %s, NULL, NULL, 'key', NULL)"
    told = ok(http.post("/v1/registry/locked/versions/1/gate", json={}))
    for decision, refused in ((None, "decision_missing"), (told["id"], "decision_stale")):
        with gateway.as_tenant() as c, pytest.raises(psycopg.errors.CheckViolation) as caught:
            c.execute(move, (registry, decision))
        assert caught.value.diag.constraint_name == refused
    # A verdict is made of the checks; nobody writes one.
    columns = (
        "(id, tenant_id, registry_id, version, against, gates, record, record_hash, checks, expires_at{})"
    )
    values = (
        "SELECT %s, tenant_id, id, 2, 1, gates, '{{}}', '', %s, now() + interval '1 day'{} FROM gateway.registry "
        "WHERE name = 'locked'"
    )
    insert = f"INSERT INTO gateway.registry_decision {columns} {values}"
    with gateway.as_tenant() as c, pytest.raises(psycopg.errors.GeneratedAlways):
        c.execute(insert.format(", verdict", ", 'passed'"), ("dec-forged", Jsonb([])))
    for number, found in enumerate(([], [{"outcome": "failed"}], [{"outcome": "inconclusive"}], {"a": 1})):
        with gateway.as_tenant() as c:
            c.execute(insert.format("", ""), (f"dec-{number}", Jsonb(found)))
        with gateway.as_tenant() as c, pytest.raises(psycopg.errors.CheckViolation) as caught:
            c.execute(move, (registry, f"dec-{number}"))
        assert caught.value.diag.constraint_name == "promotion_blocked"
    assert ok(http.get("/v1/registry/locked"))["production_version"] == 1


def test_the_table_of_moves_is_the_databases_own(gateway: RunningGateway) -> None:
    actions, stages = {a for a, _ in LEGAL}, ("candidate", "staging", "production", "archived")
    with gateway.as_tenant() as c:
        for action in actions:
            for stage in stages:
                row = c.execute(
                    "SELECT gateway.registry_legal(%s, %s) AS to_stage", (action, stage)
                ).fetchone()
                assert row == {"to_stage": LEGAL.get((action, stage))}  # type: ignore[call-overload]


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
