"""Tags that move by compare-and-swap, retention, and what the collection of garbage takes for named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from services.data_governance.repository import warehouse
from tests.integration.gateway_app import RunningGateway, running_gateway

TAG = "/v1/datasets/service/tags/best"


@pytest.fixture
def gateway(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(database_url, redis_url, tmp_path) as running:
        for number in range(1, 6):
            running.add_version(f"dsv-{number}")
        with running.as_tenant() as c:
            for number in range(1, 6):
                artifact = "sha256:" + str(number) * 64
                c.execute(
                    "UPDATE data_governance.version SET artifact = %s, created_at = now() - make_interval(days => %s) "
                    "WHERE id = %s",
                    (artifact, 60 - number, f"dsv-{number}"),
                )
            c.execute("UPDATE data_governance.dataset SET current_version = 'dsv-5'")
        yield running


def move(gateway: RunningGateway, version: str, expected: str | None) -> Any:
    with gateway.http() as client:
        return client.put(TAG, json={"version": version, "expected": expected})


def overdue(gateway: RunningGateway) -> list[str]:
    with gateway.as_tenant() as c:
        return [row["id"] for row in warehouse.overdue(c, gateway.tenants["acme"])]


def test_a_tag_is_made_moved_listed_and_removed(gateway: RunningGateway) -> None:
    assert move(gateway, "dsv-1", None).json()["moves"] == 1
    assert move(gateway, "dsv-2", "dsv-1").json()["version"] == "dsv-2"
    with gateway.http() as client:
        (tag,) = client.get("/v1/datasets/service/tags").json()["data"]
        assert (tag["name"], tag["version"], tag["moves"]) == ("best", "dsv-2", 2)
        assert client.delete(TAG, params={"expected": "dsv-1"}).status_code == 409
        assert client.delete(TAG, params={"expected": "dsv-2"}).json()["deleted"] is True
        assert client.get("/v1/datasets/service/tags").json()["data"] == []
        assert client.delete(TAG, params={"expected": "dsv-2"}).status_code == 404


def test_a_tag_that_has_moved_is_not_moved_again(gateway: RunningGateway) -> None:
    move(gateway, "dsv-1", None)
    for expected in (None, "dsv-3"):
        refused = move(gateway, "dsv-2", expected)
        assert (refused.status_code, refused.json()["error"]["param"]) == (409, "expected")
        assert "dsv-1" in refused.json()["error"]["message"]
    # The same move twice, as after a lost answer, is no conflict.
    assert move(gateway, "dsv-1", None).json()["moves"] == 1


def test_of_many_movers_one_wins(gateway: RunningGateway) -> None:
    move(gateway, "dsv-1", None)
    start = Barrier(4)

    def race(version: str) -> int:
        start.wait()
        return int(move(gateway, version, "dsv-1").status_code)

    with ThreadPoolExecutor(4) as pool:
        codes = sorted(pool.map(race, ["dsv-2", "dsv-3", "dsv-4", "dsv-5"]))
    assert codes == [200, 409, 409, 409]


def test_a_tag_needs_a_version_that_is_there_and_a_name_that_is_one(gateway: RunningGateway) -> None:
    assert move(gateway, "dsv-none", None).status_code == 404
    with gateway.http() as client:
        body = {"version": "dsv-1", "expected": None}
        assert client.put("/v1/datasets/service/tags/a b", json=body).status_code == 400
        missing = client.put(TAG, json={"version": "dsv-1"})
        assert (missing.status_code, missing.json()["error"]["param"]) == (400, "expected")
    with gateway.http("rival") as rival:
        assert rival.put(TAG, json=body).status_code == 404


def test_retention_keeps_the_newest_the_tagged_and_what_models_learned_from(gateway: RunningGateway) -> None:
    assert overdue(gateway) == []
    with gateway.http() as client:
        assert client.put("/v1/datasets/service/retention", json={"keep_last": 1}).status_code == 200
        assert overdue(gateway) == ["dsv-1", "dsv-2", "dsv-3", "dsv-4"]
        move(gateway, "dsv-1", None)
        gateway.add_model("m")
        with gateway.as_tenant() as c:
            c.execute("UPDATE training.model SET dataset_version = 'dsv-2'")
        assert overdue(gateway) == ["dsv-3", "dsv-4"]
        body = {"type": "pretrain", "name": "n", "training_file": "dsv-3"}
        assert client.post("/v1/training/jobs", json=body).status_code == 200
        assert overdue(gateway) == ["dsv-4"]
        client.put("/v1/datasets/service/retention", json={"keep_last": 1, "keep_days": 57})
        assert overdue(gateway) == []
        assert client.delete("/v1/datasets/service/retention").json()["keep_last"] is None
        assert overdue(gateway) == []


def test_a_version_that_was_removed_is_not_listed_and_still_has_lineage(gateway: RunningGateway) -> None:
    tenant = gateway.tenants["acme"]
    with gateway.http() as client:
        client.put("/v1/datasets/service/retention", json={"keep_last": 4})
        with gateway.as_tenant() as c:
            assert [row["id"] for row in warehouse.remove_overdue(c, tenant)] == ["dsv-1"]
        listed = client.get("/v1/datasets/service/versions").json()["data"]
        assert [row["id"] for row in listed] == ["dsv-5", "dsv-4", "dsv-3", "dsv-2"]
        assert move(gateway, "dsv-1", None).status_code == 404
        (node,) = client.get("/v1/lineage/dsv-1", params={"depth": 1}).json()["nodes"][:1]
        assert node["deleted_at"] is not None


def test_what_any_row_of_a_tenant_names_is_no_garbage(gateway: RunningGateway) -> None:
    letters = {name: "sha256:" + name * 64 for name in "abcdef"}
    gateway.add_model("m", artifact=letters["a"])
    tenant = gateway.tenants["acme"]
    with gateway.as_tenant() as c:
        job = (
            "INSERT INTO core.job (id, tenant_id, kind, queue, state, payload, max_attempts, max_crashes, finished_at)"
            " VALUES (%s, %s, 'noop', 'data', %s, %s::jsonb, 1, 1, CASE WHEN %s = 'queued' THEN NULL ELSE now() END)"
        )
        for state, letter in (("queued", "c"), ("succeeded", "d"), ("dead", "e")):
            payload = f'{{"data": {{"artifact": "{letters[letter]}"}}}}'
            c.execute(job, (f"job-{state}", tenant, state, payload, state))
        blob = "INSERT INTO gateway.blob (tenant_id, object, bytes) VALUES (%s, %s, 1)"
        c.execute(blob, (tenant, letters["f"]))
        named = warehouse.named_artifacts(c, time.time() - 3600)
    versions = {"sha256:" + str(number) * 64 for number in range(1, 6)}
    assert named == versions | {letters[name] for name in "acef"}


def test_what_was_deleted_is_named_until_the_grace_is_over(gateway: RunningGateway) -> None:
    artifact = "sha256:" + "1" * 64
    with gateway.as_tenant() as c:
        c.execute(
            "UPDATE data_governance.version SET deleted_at = now() - interval '2 hours' WHERE id = 'dsv-1'"
        )
        assert artifact in warehouse.named_artifacts(c, time.time() - 3 * 3600)
        assert artifact not in warehouse.named_artifacts(c, time.time() - 3600)


def test_the_collection_is_for_operators(gateway: RunningGateway) -> None:
    with gateway.http() as client:
        assert client.post("/v1/artifacts/gc", json={}).status_code == 403
    with gateway.http("operator") as client:
        assert client.post("/v1/artifacts/gc", json={}).json()["kind"] == "data.collect_garbage"
        assert client.post("/v1/artifacts/gc", json={"grace_hours": 0.1}).status_code == 400


def test_training_takes_a_tag_for_the_version_that_it_stands_at_now(gateway: RunningGateway) -> None:
    move(gateway, "dsv-2", None)
    with gateway.http() as client:
        body = {"type": "pretrain", "name": "n", "training_file": "service@best"}
        job = client.post("/v1/training/jobs", json=body)
        assert job.status_code == 200, job.text
        missing = client.post("/v1/training/jobs", json={**body, "training_file": "service@worst"})
        assert (missing.status_code, missing.json()["error"]["param"]) == (404, "training_file")
    move(gateway, "dsv-3", "dsv-2")
    with gateway.as_tenant() as c:
        row = c.execute("SELECT payload FROM core.job WHERE kind = 'training.pretrain'").fetchone()
    assert row is not None
    assert row["payload"]["data"]["id"] == "dsv-2"
