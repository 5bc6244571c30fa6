"""A subject forgotten on the whole platform: found in version and file, buried, flagged, and audited."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.stage import BASE, TUNING, Stage

pytestmark = pytest.mark.timeout(900)

PHONE = "13800138000"


def dialogues(which: str = "个", customer: str = "C-3") -> bytes:
    """Twelve rows: `customer` has two of them, and one has a telephone number that a version masks."""
    rows = []
    for number in range(12):
        turns = [
            {"role": "user", "content": f"第{number}{which}问题：怎样办理业务{number}？"},
            {"role": "assistant", "content": f"请到第{number}号柜台办理。"},
        ]
        owner = customer if number in (3, 7) else f"C-{100 + number}"
        rows.append(
            {
                "id": f"d{number}",
                "customer_id": owner,
                "phone": PHONE if number == 5 else "",
                "messages": turns,
            }
        )
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


@pytest.fixture(scope="module")
def version(stage: Stage) -> dict[str, Any]:
    return dict(stage.govern("forgetful", dialogues())["result"])


def erased(stage: Stage, **body: Any) -> dict[str, Any]:
    return dict(stage.succeeded(stage.post("/v1/erasures", body)["id"])["result"])


def test_a_dry_run_finds_a_subject_by_a_column_and_changes_nothing(
    stage: Stage, version: dict[str, Any]
) -> None:
    found = erased(stage, column="customer_id", value="C-3")
    assert (found["dry_run"], found["rows"]) == (True, 2)
    assert [(one["id"], one["rows"]) for one in found["versions"]] == [(version["version_id"], 2)]
    (file,) = found["files"]
    assert (file["filename"], file["lines"]) == ("forgetful.jsonl", [4, 8])
    with stage.http() as http:
        assert http.get(f"/v1/erasures/{found['erasure_id']}").status_code == 404
    (node,) = [
        n
        for n in stage.get(f"/v1/lineage/{version['version_id']}", rows=0)["nodes"]
        if n["kind"] == "version"
    ]
    assert node["needs_rebuild"] == []


def test_a_subject_is_found_by_a_value_that_its_version_hides(stage: Stage, version: dict[str, Any]) -> None:
    found = erased(stage, column="phone", value=PHONE)
    assert found["rows"] == 1
    assert [one["id"] for one in found["versions"]] == [version["version_id"]]


def test_the_models_of_erased_rows_are_flagged_and_the_value_is_kept_nowhere(stage: Stage) -> None:
    # Models of its own: a gate lets none through that learned from an erased row.
    learned = stage.govern("learned", dialogues("位", "C-4"))["result"]["version_id"]
    asked = {"type": "pretrain", "name": "forgetful", "training_file": learned}
    base = stage.post("/v1/training/jobs", {**asked, "hyperparameters": {**BASE, "max_steps": 2}})
    stage.succeeded(base["id"])
    asked = {"type": "sft", "model": "forgetful", "training_file": learned}
    tuning = stage.post("/v1/training/jobs", {**asked, "hyperparameters": {**TUNING, "max_steps": 2}})
    tuned = stage.succeeded(tuning["id"])["result"]["fine_tuned_model"]
    row = stage.get(f"/v1/lineage/{learned}")["rows"][learned]["data"][3]["row_id"]
    found = erased(stage, row_ids=[row], dry_run=False)
    assert set(found["models"]) == {"forgetful", tuned}
    assert stage.get(f"/v1/erasures/{found['erasure_id']}")["rows"] == 1
    nodes = stage.get(f"/v1/lineage/{tuned}", rows=0)["nodes"]
    flagged = {node["id"] for node in nodes if node.get("needs_rebuild") == [found["erasure_id"]]}
    assert {tuned, "forgetful", learned} <= flagged
    secret = "C-3-very-secret"
    asked = stage.post("/v1/erasures", {"column": "customer_id", "value": secret})
    stage.succeeded(asked["id"])
    with stage.harness.db.core() as c:
        job = c.execute(
            "SELECT payload::text AS p, result::text AS r FROM core.job WHERE id = %s", (asked["id"],)
        )
        assert secret not in str(job.fetchone())
    with stage.harness.db.transaction(stage.harness.tenant) as c:
        audit = c.execute("SELECT action, subject FROM core.audit WHERE subject = %s", (found["erasure_id"],))
        assert [line["action"] for line in audit.fetchall()] == ["subject_erased"]


def test_what_is_built_anew_has_no_erased_row(stage: Stage, version: dict[str, Any]) -> None:
    found = erased(stage, column="customer_id", value="C-3", dry_run=False)
    (job,) = stage.post(f"/v1/erasures/{found['erasure_id']}/rebuild")["data"]
    built = stage.succeeded(job["id"])["result"]
    assert built["version_id"] != version["version_id"]
    assert built["rows"]["total"] == version["rows"]["total"] - 2
    again = erased(stage, column="customer_id", value="C-3")
    assert built["version_id"] not in [one["id"] for one in again["versions"]]
    with stage.http() as http:
        nothing = http.post(f"/v1/erasures/{found['erasure_id']}/rebuild", json={})
    assert nothing.status_code == 409
