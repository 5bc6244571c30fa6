"""What a promotion rests on cannot be made up: the database looks at runs, items and facts itself."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb

from shared.contracts.model_registry import LEGAL
from tests.integration.gateway_app import RunningGateway
from tests.integration.registry_app import OPEN, add_eval, add_run, gateway_on, make, ok, promote

Change = Callable[[dict[str, Any]], None]
INSERT = """
INSERT INTO gateway.registry_decision (id, tenant_id, registry_id, version, against, gates, record, record_hash, checks,
    expires_at)
SELECT %(id)s, tenant_id, registry_id, version, against, gates, %(record)s, '', %(checks)s, now() + interval '10 years'
FROM gateway.registry_decision WHERE id = %(of)s RETURNING *"""


gateway, http = gateway_on("evidence")


def forge(gateway: RunningGateway, decision: dict[str, Any], change: Change) -> str | None:
    """Write the decision once more, changed, as a route could: the code that it is refused with."""
    told = {"record": deepcopy(decision["record"]), "checks": deepcopy(decision["checks"])}
    change(told)
    values = {"id": f"dec-{change.__name__}", "of": decision["id"]}
    try:
        with gateway.as_tenant() as c:
            row = c.execute(INSERT, {**values, **{key: Jsonb(told[key]) for key in told}}).fetchone()
            assert row is not None
            assert row["verdict"] == "passed"
            c.rollback()
    except psycopg.errors.CheckViolation as exc:
        return exc.diag.constraint_name
    return None


def all_passed(told: dict[str, Any]) -> None:
    for check in told["checks"]:
        check["outcome"] = "passed"


def unchanged(told: dict[str, Any]) -> None:
    pass


def test_a_decision_that_says_more_than_the_items_is_refused(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    rules = {
        **OPEN,
        "eval_id": add_eval(gateway, "eval_e"),
        "min_items": 40,
        "min_slice_items": 20,
        "baseline_score": 0.2,
        "baseline_model": "three",
    }
    make(http, "seen", "one", "two", gates=rules)
    scores = [float(number % 10 < 7) for number in range(60)]
    add_run(gateway, "eval_e", "three", [0.0] * 60)
    add_run(gateway, "eval_e", "one", scores)
    add_run(gateway, add_eval(gateway, "eval_other"), "two", scores)
    ok(promote(http, "seen", 1))
    add_run(gateway, "eval_e", "registry:seen@2", scores)
    good = ok(http.post("/v1/registry/seen/versions/2/gate", json={}))
    assert good["verdict"] == "passed"
    assert forge(gateway, good, unchanged) is None

    def no_runs(told: dict[str, Any]) -> None:
        told["record"]["runs"] = {}

    def of_another_model(told: dict[str, Any]) -> None:
        told["record"]["runs"]["candidate"] = told["record"]["runs"]["champion"]

    def more_items(told: dict[str, Any]) -> None:
        told["record"]["runs"]["candidate"]["items"] = 6000

    refused = [no_runs, of_another_model, more_items]
    for name in ("same_items", "quality", "slice:language=zh", "baseline", "baseline_model", "erasure"):

        def without(told: dict[str, Any], name: str = name) -> None:
            told["checks"] = [check for check in told["checks"] if check["name"] != name]

        refused.append(without)
    for change in refused:
        assert (change.__name__, forge(gateway, good, change)) == (change.__name__, "decision_unfounded")

    def parity_waived(told: dict[str, Any]) -> None:
        next(c for c in told["checks"] if c["name"] == "parity")["outcome"] = "waived"

    assert forge(gateway, good, parity_waived) == "waiver_invalid"

    # What the gate holds back is not let in by whoever says that it passed.
    for worse in (
        [1.0 if number % 2 == 0 else 0.0 for number in range(60)],  # worse in one language
        [float(number % 10 < 5) for number in range(60)],  # worse in all
        scores[:30],  # too few
        [0.0] * 60,  # no better than the trivial one
    ):
        add_run(gateway, "eval_e", "two", worse)
        bad = ok(http.post("/v1/registry/seen/versions/2/gate", json={}))
        assert bad["verdict"] != "passed"
        assert forge(gateway, bad, all_passed) == "decision_unfounded"

    with gateway.as_tenant() as c:
        told = {key: Jsonb(good[key]) for key in ("record", "checks")}
        row = c.execute(INSERT, {"id": "dec-kept", "of": good["id"], **told}).fetchone()
    assert row is not None
    assert (row["expires_at"] - row["created_at"]).days == 7


def test_a_decision_that_says_more_of_the_model_than_is_known_is_refused(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    gateway.add_version("dsv-fit")
    gateway.add_version("dsv-unfit", passed=False)
    agreed = {"lineage": {}, "parity": {"passed": True}}
    models = {
        "fit": ("dsv-fit", agreed),
        "unfit": ("dsv-unfit", agreed),
        "ungoverned": ("file-1", agreed),
        "unequal": ("dsv-fit", {"lineage": {}, "parity": {"passed": False}}),
        "leaking": ("dsv-leaks", agreed),
        "erased": ("dsv-fit", agreed),
    }
    gateway.add_version("dsv-leaks")
    with gateway.as_tenant() as c:
        report = {"leakage": {"questions_in_both_splits": 2}}
        c.execute("UPDATE data_governance.version SET report = %s WHERE id = 'dsv-leaks'", (Jsonb(report),))
    for name, (data, info) in models.items():
        gateway.add_model(name)
        with gateway.as_tenant() as c:
            query = "UPDATE training.model SET dataset_version = %s, info = %s WHERE id = %s"
            c.execute(query, (data, Jsonb(info), name))
    with gateway.as_tenant() as c:
        tenant = gateway.tenants["acme"]
        c.execute(
            "INSERT INTO data_governance.erasure (id, tenant_id, job_id, subject, found) "
            "VALUES ('erasure-1', %s, 'job-1', '{}', '{}')",
            (tenant,),
        )
        c.execute(
            "INSERT INTO data_governance.needs_rebuild (tenant_id, kind, id, erasure_id) "
            "VALUES (%s, 'model', 'erased', 'erasure-1')",
            (tenant,),
        )
    make(http, "known", *models, gates={})
    got = {}
    for number, name in enumerate(models, 1):
        made = ok(http.post(f"/v1/registry/known/versions/{number}/gate", json={}))
        got[name] = (made["verdict"], forge(gateway, made, all_passed))
    assert got.pop("fit") == ("passed", None)
    assert set(got.values()) == {("failed", "decision_unfounded")}


def test_the_data_gate_walks_to_what_a_model_stands_on_and_names_it(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    gateway.add_version("dsv-clean")
    gateway.add_version("dsv-dirty", passed=False)
    agreed = {"lineage": {}, "parity": {"passed": True}}
    # (base, what it began as, learned from): `brought` is from elsewhere.
    chain = {
        "brought": (None, None, None),
        "root": ("brought", None, "dsv-dirty"),
        "tuned": ("root", None, "dsv-clean"),
        "adapter": ("tuned", None, "dsv-clean"),
        "further": ("tuned", "adapter", "dsv-clean"),
        "taught": ("brought", None, "dsv-clean"),
        "clean": ("brought", None, "dsv-clean"),
        "of-a-file": ("brought", None, "file-9"),
        "on-a-file": ("of-a-file", None, "dsv-clean"),
    }
    for name, (base, began_as, learned) in chain.items():
        gateway.add_model(name, base_id=base)
        with gateway.as_tenant() as c:
            c.execute(
                "UPDATE training.model SET dataset_version = %s, info = %s WHERE id = %s",
                (learned, Jsonb({**agreed, "started_from": began_as} if learned else {}), name),
            )
    with gateway.as_tenant() as c:
        for job, kind, parent in (
            ("distill-1", "training.distill", None),
            ("ftjob-1", "training.fine_tune", "distill-1"),
        ):
            c.execute(
                "INSERT INTO core.job (id, tenant_id, kind, queue, state, payload, max_attempts, max_crashes,"
                " finished_at, parent_id) VALUES (%s, %s, %s, 'training', 'succeeded', %s, 1, 1, now(), %s)",
                (job, gateway.tenants["acme"], kind, Jsonb({"teacher": "root"}), parent),
            )
        c.execute("UPDATE training.model SET job_id = 'ftjob-1' WHERE id = 'taught'")
    names = ("tuned", "adapter", "further", "taught", "clean", "on-a-file")
    for asked in ("required", "where_known"):
        make(http, f"stands-{asked.replace('_', '-')}", *names, gates={"data_gate": asked})
    got: dict[str, list[Any]] = {name: [] for name in names}
    for registered in ("stands-required", "stands-where-known"):
        for number, name in enumerate(names, 1):
            told = ok(http.post(f"/v1/registry/{registered}/versions/{number}/gate", json={}))
            found = next(check for check in told["checks"] if check["name"] == "data_gate")
            got[name].append(found.get("ancestor") or found["outcome"])
    assert got == {
        **{name: ["root", "root"] for name in ("tuned", "adapter", "further", "taught")},
        "clean": ["passed", "passed"],
        "on-a-file": ["of-a-file", "passed"],
    }
    card = ok(http.get("/v1/models/adapter/card"))
    assert "It stands on root, which learned from data that fails its gate." in card["limits"]
    assert promote(http, "stands-required", 2).status_code == 409
    ok(promote(http, "stands-required", 5))


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
