"""Versions of one dataset after each other, by a worker: their drift, the gate on it, and the report for people."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from services.cli.main import app
from tests import servers
from tests.harness import Harness, platform

RECIPE = {
    "input": {"prompt": "question", "completion": "answer", "label": "label"},
    "steps": [{"op": "exact_duplicates"}],
    "gates": {"max_drift": 0.25},
}
CHINESE = ["退款", "运费", "多少", "怎么", "发货", "地址", "修改", "客服"]
ENGLISH = ["refund", "parcel", "where", "shipping", "cost", "address", "change", "late"]
HOSTILE = "<script>alert(1)</script>"


def rows(words: list[str], labels: list[str], seed: int) -> bytes:
    """300 questions of six words; their label is even."""
    pick = random.Random(seed)
    made = [
        {
            "question": " ".join(pick.choices(words, k=6)) + f" {n}",
            "answer": words[0],
            "label": labels[n % len(labels)],
        }
        for n in range(300)
    ]
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in made).encode()


class Stage:
    """A gateway with a worker of data governance, and three versions of one dataset: like, like it, and unlike."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.url = harness.start_gateway()
        harness.start("dispatcher")
        harness.start("data_governance")
        self.http = self.client(harness.key())
        self.first_rows = rows(CHINESE, ["售后", HOSTILE], 1)
        self.first = self.build(self.first_rows)
        self.like = self.build(rows(CHINESE, ["售后", HOSTILE], 2))
        self.unlike = self.build(rows(ENGLISH, ["售后", "sales"], 3))

    def client(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=60)

    def build(self, content: bytes) -> dict[str, Any]:
        """The result of the job that made a version of `drifting` from these rows."""
        sent = {"file": (f"{HOSTILE}.jsonl", content)}
        file = self.http.post("/v1/files", files=sent, data={"purpose": "user_data"}).json()["id"]
        body = {"name": "drifting", "file_id": file, "recipe": RECIPE}
        ended = self.harness.wait_job(self.http.post("/v1/datasets", json=body).json()["id"])
        assert ended.state == "succeeded", (ended.state, ended.error)
        return dict(ended.result or {})

    def version(self, result: dict[str, Any]) -> dict[str, Any]:
        answer = self.http.get(f"/v1/datasets/drifting/versions/{result['version_id']}")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def report(self, result: dict[str, Any], **query: str) -> httpx.Response:
        return self.http.get(f"/v1/datasets/drifting/versions/{result['version_id']}/report", params=query)


@pytest.fixture(scope="module")
def stage(postgres: servers.RunningServer, valkey: servers.RunningServer) -> Iterator[Stage]:
    database = servers.new_database(postgres.url, "test_dataset_reports", template="heliu_template")
    with platform(database, valkey.url) as harness:
        yield Stage(harness)
    servers.drop_database(postgres.url, "test_dataset_reports")


def test_a_first_version_has_no_drift_and_passes(stage: Stage) -> None:
    version = stage.version(stage.first)
    assert (version["drift"], version["gate_passed"]) == (None, True)


def test_a_version_of_like_rows_is_stable_against_the_one_before(stage: Stage) -> None:
    version = stage.version(stage.like)
    assert (version["drift"]["against"], version["drift"]["verdict"]) == (stage.first["version_id"], "stable")
    assert [check["passed"] for check in version["gate"]["checks"] if check["name"] == "max_drift"] == [True]


def test_a_version_that_moved_too_far_fails_its_gate_and_training_refuses_it(stage: Stage) -> None:
    version = stage.version(stage.unlike)
    assert version["drift"]["labels"] == {"new": ["sales"], "vanished": [HOSTILE]}
    assert not version["gate_passed"]
    (reason,) = version["gate"]["reasons"]
    assert reason.startswith("max_drift: drift of ")
    assert stage.unlike["gate"] == version["gate"] == version["report"]["gate"]
    body = {"type": "pretrain", "name": "learner", "training_file": version["id"]}
    refused = stage.http.post("/v1/training/jobs", json=body)
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("dataset_gate_failed", "training_file")
    assert reason in error["message"]


def test_what_was_refused_is_not_what_the_next_is_measured_by(stage: Stage) -> None:
    again = stage.version(stage.build(rows(ENGLISH, ["售后", "sales"], 4)))
    assert (again["drift"]["against"], again["gate_passed"]) == (stage.like["version_id"], False)


def test_the_same_rows_again_are_the_same_version_judged_as_it_was(stage: Stage) -> None:
    before = stage.version(stage.first)
    again = stage.build(stage.first_rows)
    assert (again["version_id"], again["gate"]) == (before["id"], before["gate"])
    assert stage.version(again)["drift"] is None


def test_the_report_is_given_as_json_and_as_a_page_that_runs_nothing(stage: Stage) -> None:
    told = stage.report(stage.unlike).json()
    assert told["report"]["rows_in"] == told["report"]["rows_kept"] + sum(told["report"]["dropped"].values())
    assert told["report"]["lengths"]
    page = stage.report(stage.unlike, format="html")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "training refuses it" in page.text
    assert "<script" not in page.text
    assert page.text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
    assert "售后" in page.text


def test_another_form_of_a_report_is_refused(stage: Stage) -> None:
    refused = stage.report(stage.first, format="pdf")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "format")


def test_another_tenant_finds_no_report(stage: Stage) -> None:
    path = f"/v1/datasets/drifting/versions/{stage.first['version_id']}/report"
    with stage.client(stage.harness.key("operator")) as operator:
        assert operator.post("/v1/tenants", json={"name": "rival"}).status_code == 200
        key = operator.post("/v1/keys", json={"name": "rival", "tenant": "rival"}).json()["key"]
    with stage.client(key) as rival:
        answers = [rival.get(path, params={"format": form}).status_code for form in ("json", "html")]
    assert answers == [404, 404]


def test_the_command_line_writes_the_page_to_a_file(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIU_GATEWAY_URL", stage.url)
    monkeypatch.setenv("HELIU_API_KEY", stage.harness.key())
    target = tmp_path / "report.html"
    words = ["data", "report", "drifting", stage.like["version_id"], "--html", str(target), "--json"]
    ran = CliRunner().invoke(app, words)
    assert ran.exception is None, ran.output
    page = target.read_bytes()
    assert json.loads(ran.stdout) == {"file": str(target), "bytes": len(page)}
    assert page.decode("utf-8").startswith("<!doctype html>")
