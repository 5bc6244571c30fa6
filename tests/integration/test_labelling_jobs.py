"""The long work on labelling projects on real workers: items in, labels out, versions, suspects, functions."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from services.cli.main import app
from shared.errors import HeliuError
from tests import servers
from tests.harness import Harness, platform, wait_for

BASE = "/v1/labelling/projects"


class Stage:
    """A gateway with a worker of data governance, and the tenant's client."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.url = harness.start_gateway()
        harness.start("dispatcher")
        self.worker = harness.start("data_governance")
        headers = {"authorization": f"Bearer {harness.key()}"}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        answer = self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def upload(self, name: str, content: bytes) -> str:
        answer = self.http.post("/v1/files", files={"file": (name, content)}, data={"purpose": "user_data"})
        return str(answer.json()["id"])

    def rows(self, name: str, rows: list[dict[str, Any]]) -> str:
        lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        return self.upload(name, lines.encode())

    def result(self, job: dict[str, Any]) -> dict[str, Any]:
        ended = self.harness.wait_job(job["id"])
        assert ended.state == "succeeded", (ended.state, ended.error)
        return dict(ended.result or {})

    def project(self, name: str, rows: list[dict[str, Any]], **spec: Any) -> tuple[str, dict[str, Any]]:
        """A project of a file with these rows; (id, the import's result)."""
        body = {"name": name, "task": "classification", "labels": ["good", "bad"], **spec}
        made = self.post(BASE, {**body, "file_id": self.rows(f"{name}.jsonl", rows)})
        return made["id"], self.result(made["job"])

    def items(self, project: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        more = True
        while more:
            page = self.get(
                f"{BASE}/{project}/items", limit=100, **({"after": found[-1]["id"]} if found else {})
            )
            found += page["data"]
            more = page["has_more"]
        return found

    def labeller(self, project: str, name: str, **options: Any) -> httpx.Client:
        made = self.post(f"{BASE}/{project}/labellers", {"name": name, **options})
        headers = {"authorization": f"Bearer {made['token']}"}
        return httpx.Client(base_url=f"{self.url}{BASE}/{project}/work", headers=headers, timeout=60)

    def lines(self, file_id: str) -> list[dict[str, Any]]:
        content = self.http.get(f"/v1/files/{file_id}/content").text
        return [json.loads(line) for line in content.splitlines()]


@contextmanager
def environment(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= values
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def say(labeller: httpx.Client, item: str, value: dict[str, Any], **more: Any) -> None:
    answer = labeller.post(f"/items/{item}/labels", json={"value": value, **more})
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def stage(postgres: servers.RunningServer, valkey: servers.RunningServer) -> Iterator[Stage]:
    database = servers.new_database(postgres.url, "test_labelling_jobs", template="heliu_template")
    with platform(database, valkey.url) as harness:
        yield Stage(harness)
    servers.drop_database(postgres.url, "test_labelling_jobs")


def test_rows_of_a_file_become_items_and_what_does_not_fit_is_told(stage: Stage) -> None:
    rows = [
        {"id": "a", "text": "很好用", "right": "good", "shop": "东"},
        {"id": "b", "text": "坏了", "right": "", "shop": "西"},
        {"id": "c", "text": "so so", "right": "gut"},
    ]
    project, told = stage.project("from-file", rows, fields={"text": "text", "id": "id", "gold": "right"})
    assert (told["items"], told["added"], told["unusable"]) == (3, 2, 1)
    assert "'gut' is no label" in told["reasons"][0]
    first, second = stage.items(project)
    assert (first["data"], first["state"], first["gold"]) == ({"text": "很好用"}, "gold", {"label": "good"})
    assert (second["state"], second["extra"]) == ("open", {"id": "b", "shop": "西"})
    again = stage.post(f"{BASE}/{project}/import", {"file_id": stage.rows("x.jsonl", rows), "format": "file"})
    assert stage.result(again)["added"] == 0


def test_agreement_through_the_api_is_the_hand_computed_one(stage: Stage) -> None:
    project, _ = stage.project("kappa", [{"text": f"text {n}"} for n in range(5)], labels_per_item=2)
    people = [stage.labeller(project, name) for name in ("li", "wang")]
    votes = ["good good", "good good", "good bad", "bad good", "bad bad"]
    for item, both in zip(stage.items(project), votes, strict=True):
        for person, label in zip(people, both.split(), strict=True):
            say(person, item["id"], {"label": label})
    told = stage.get(f"{BASE}/{project}/agreement")
    # Observed 3/5, expected (3*3 + 2*2)/25.
    assert told["measure"] == "cohen_kappa"
    assert told["value"] == pytest.approx((3 / 5 - 13 / 25) / (1 - 13 / 25))


def test_a_labelled_project_becomes_a_dataset_version_whose_rows_know_their_source(stage: Stage) -> None:
    rows = [{"text": f"第 {n} 条评论：还不错 number {n}"} for n in range(12)]
    project, _ = stage.project("to-version", rows, labels_per_item=2)
    li, wang = (stage.labeller(project, name) for name in ("li", "wang"))
    judge = stage.labeller(project, "judge", adjudicates=True)
    items = stage.items(project)
    for number, item in enumerate(items[:10]):
        say(li, item["id"], {"label": "good" if number % 2 else "bad"})
        say(wang, item["id"], {"label": "good" if number % 2 or number == 0 else "bad"})
    say(judge, items[0]["id"], {"label": "good"}, queue="adjudication")
    body = {"dataset": "reviews", "recipe": {"version": 1, "steps": []}}
    told = stage.result(stage.post(f"{BASE}/{project}/build", body))
    assert (told["rows"], told["unanswered"], told["labels"]) == (10, 2, {"good": 6, "bad": 4})
    lines = stage.lines(told["file_id"])
    assert [line["source_row_id"] for line in lines] == [item["row_id"] for item in items[:10]]
    assert (lines[0]["label"], lines[0]["label_source"]) == ("good", "adjudicator")
    built = stage.result({"id": told["build_job_id"]})
    assert built["rows"]["total"] == 10
    version = stage.get(f"/v1/datasets/reviews/versions/{built['version_id']}/rows", limit=100)["data"]
    assert {row["id"]: row["label"] for row in version} == {
        line["source_row_id"]: line["label"] for line in lines
    }
    # And a version is labelled again, by the ids of its own rows.
    made = stage.post(BASE, {"name": "again", "task": "text", "version_id": built["version_id"]})
    assert stage.result(made["job"])["added"] == 10
    assert {item["row_id"] for item in stage.items(made["id"])} == {row["_row_id"] for row in version}


def test_preferences_and_spans_leave_as_pairs_and_places(stage: Stage) -> None:
    pairs = [{"prompt": f"问 {n}", "answer_a": "是", "answer_b": "否"} for n in range(3)]
    project, _ = stage.project("pairs", pairs, task="preference", labels=[])
    li = stage.labeller(project, "li")
    for item, choice in zip(stage.items(project), ("a", "b", "tie"), strict=True):
        assert item["data"] == {"text": item["data"]["text"], "a": "是", "b": "否"}
        say(li, item["id"], {"choice": choice})
    told = stage.result(stage.post(f"{BASE}/{project}/export", {}))
    lines = stage.lines(told["file_id"])
    assert [(line["prompt"], line["chosen"], line["rejected"]) for line in lines] == [
        ("问 0", "是", "否"),
        ("问 1", "否", "是"),
    ]
    project, _ = stage.project("spans", [{"text": "😀王芳住在北京"}], task="spans", labels=["人", "地"])
    say(
        stage.labeller(project, "li"),
        stage.items(project)[0]["id"],
        {"spans": [{"start": 1, "end": 3, "label": "人"}]},
    )
    told = stage.result(stage.post(f"{BASE}/{project}/export", {}))
    assert stage.lines(told["file_id"])[0]["spans"] == [{"start": 1, "end": 3, "label": "人", "text": "王芳"}]


@pytest.mark.parametrize(
    ("spec", "row", "values"),
    [
        ({}, {"text": "一"}, [{"label": "good"}, {"label": "bad"}]),
        ({"multiple": True}, {"text": "二"}, [{"labels": ["good", "bad"]}, {"labels": []}]),
        (
            {"task": "spans"},
            {"text": "😀 in Paris"},
            [{"spans": [{"start": 5, "end": 10, "label": "good"}]}, {"spans": []}],
        ),
        (
            {"task": "preference", "labels": []},
            {"prompt": "p", "answer_a": "x", "answer_b": "y"},
            [{"choice": "a"}, {"choice": "tie"}],
        ),
        ({"task": "answer", "labels": []}, {"text": "why?"}, [{"text": "so"}, {"text": "因为"}]),
    ],
)
def test_label_studio_gives_back_what_it_was_given(
    stage: Stage, spec: dict[str, Any], row: dict[str, Any], values: list[dict[str, Any]]
) -> None:
    name = f"studio-{spec.get('task', spec)}".replace("/", "")[:40]
    project, _ = stage.project(name, [row], labels_per_item=2, **spec)
    (item,) = stage.items(project)
    for who, value in zip(("li", "wang"), values, strict=True):
        say(stage.labeller(project, who), item["id"], value)
    judge = stage.labeller(project, "judge", adjudicates=True)
    say(judge, item["id"], values[0], queue="adjudication")
    told = stage.result(stage.post(f"{BASE}/{project}/export", {"format": "label_studio"}))
    assert told["label_config"].startswith("<View>")
    body = {"name": f"{name}-2", "task": "classification", "labels": ["good", "bad"], **spec}
    copy = stage.post(BASE, {**body, "labels_per_item": 2})["id"]
    brought = stage.result(stage.post(f"{BASE}/{copy}/import", {"file_id": told["file_id"]}))
    assert (brought["added"], brought["reasons"]) == (1, [])
    (before,), (after,) = stage.items(project), stage.items(copy)
    for key in ("row_id", "data", "extra", "state", "agreement", "final", "final_by"):
        assert (key, after[key]) == (key, before[key])
    blind = [
        [(one["labeller"], one["value"]) for one in it["labels"] if one["role"] == "label"]
        for it in (before, after)
    ]
    assert blind[0] == blind[1]


def test_what_label_studio_itself_writes_is_taken(stage: Stage) -> None:
    tasks = [
        {
            "id": 7,
            "data": {"text": "😀 Anna in Bonn"},
            "annotations": [
                {
                    "completed_by": 3,
                    "result": [
                        {
                            "from_name": "label",
                            "to_name": "text",
                            "type": "labels",
                            "value": {"start": 3, "end": 7, "text": "Anna", "labels": ["good"]},
                        }
                    ],
                    "was_cancelled": False,
                },
                {"completed_by": 4, "result": [], "was_cancelled": True},
            ],
        },
        {"id": 8, "data": {"image": "x.png"}, "annotations": []},
    ]
    project = stage.post(BASE, {"name": "ls", "task": "spans", "labels": ["good"]})["id"]
    file = stage.upload("export.json", json.dumps(tasks).encode())
    told = stage.result(stage.post(f"{BASE}/{project}/import", {"file_id": file}))
    assert (told["added"], told["unusable"]) == (1, 1)
    assert "[1].data.text" in told["reasons"][0]
    (item,) = stage.items(project)
    assert item["final"] == {"spans": [{"start": 2, "end": 6, "label": "good"}]}


WORDS = {
    "good": ["物流很快", "质量很好", "great quality", "fast delivery", "非常满意", "love it"],
    "bad": ["质量太差", "退款太慢", "terrible support", "broken again", "非常失望", "never again"],
}


def reviews(count: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        label = rng.choice(["good", "bad"])
        rows.append(
            {"text": f"{rng.choice(WORDS[label])}，{rng.choice(WORDS[label])} {number}", "truth": label}
        )
    return rows


def test_wrong_labels_are_suspected_and_unsure_items_come_first(stage: Stage) -> None:
    rows = reviews(140, 5)
    rows[139] |= {"text": "great quality，质量太差 fast delivery，broken again"}
    project, _ = stage.project("suspects", rows, fields={"text": "text"})
    items = stage.items(project)
    li = stage.labeller(project, "li")
    wrong = {3, 17, 40, 61}
    for number, item in enumerate(items[:100]):
        truth = rows[number]["truth"]
        flipped = {"good": "bad", "bad": "good"}[truth]
        say(li, item["id"], {"label": flipped if number in wrong else truth})
    told = stage.result(stage.post(f"{BASE}/{project}/suspects", {}))
    assert told["judged"] == 100
    found = stage.get(f"{BASE}/{project}/suspects")["data"]
    worst = {row["id"] for row in found[:4]}
    assert len(worst & {items[number]["id"] for number in wrong}) >= 3
    assert found[0]["quality"] <= found[1]["quality"]
    assert {row["given"] for row in found[:4]} <= {"good", "bad"}
    picked = stage.result(stage.post(f"{BASE}/{project}/picks", {}))
    assert picked["picked"] == 40
    assert li.post("/next", json={}).json()["data"][0]["id"] == items[139]["id"]
    sure = [{"id": item["row_id"], "probabilities": {"good": 0.99, "bad": 0.01}} for item in items[100:120]]
    sure[5]["probabilities"] = {"good": 0.5, "bad": 0.5}
    wang = stage.labeller(project, "wang")
    stage.result(stage.post(f"{BASE}/{project}/picks", {"file_id": stage.rows("p.jsonl", sure)}))
    (first,) = wang.post("/next", json={}).json()["data"]
    assert first["id"] == items[105]["id"]


def test_functions_label_what_nobody_has_and_never_override_a_person(stage: Stage) -> None:
    rows = [
        {"text": "我要退款 refund please", "channel": "web"},
        {"text": "ＲＥＦＵＮＤ", "channel": "app"},
        {"text": "订单号123456789 到哪了", "channel": "app"},
        {"text": "hello", "channel": "shop"},
        {"text": "你好", "channel": "web"},
    ]
    project, _ = stage.project(
        "functions", rows, labels=["refund", "delivery", "other"], fields={"text": "text"}
    )
    items = stage.items(project)
    say(stage.labeller(project, "li"), items[0]["id"], {"label": "other"})
    said = stage.rows(
        "batch.jsonl",
        [
            {"custom_id": items[2]["row_id"], "response": {"body": {"data": [{"label": "delivery"}]}}},
            {
                "custom_id": items[4]["row_id"],
                "response": {"body": {"choices": [{"message": {"content": " Other "}}]}},
            },
            {"custom_id": items[3]["row_id"], "label": "no such label"},
        ],
    )
    functions = [
        {"kind": "keyword", "name": "says refund", "label": "refund", "any": ["refund", "退款"]},
        {"kind": "regex", "name": "order", "label": "delivery", "pattern": "订单号?[0-9]{6,12}"},
        {"kind": "field", "name": "from the shop", "label": "other", "field": "channel", "values": ["shop"]},
        {"kind": "length", "name": "short", "label": "other", "at_most": 2},
        {"kind": "answers", "name": "the model", "file_id": said},
    ]
    told = stage.result(stage.post(f"{BASE}/{project}/functions", {"functions": functions}))
    by_name = {one["name"]: one for one in told["functions"]}
    assert told["coverage"] == 1.0
    assert (by_name["says refund"]["coverage"], by_name["says refund"]["accuracy"]) == (0.4, 0.0)
    assert (by_name["the model"]["overlap"], by_name["the model"]["conflict"]) == (0.4, 0.0)
    built = stage.result(stage.post(f"{BASE}/{project}/export", {"weak": 0.5}))
    lines = stage.lines(built["file_id"])
    assert [(line["label"], line["label_source"]) for line in lines] == [
        ("other", "agreement"),
        ("refund", "functions"),
        ("delivery", "functions"),
        ("other", "functions"),
        ("other", "functions"),
    ]
    for wrong, param in (
        ({**functions[0], "label": "refnd"}, "functions[0].label"),
        ({**functions[1], "pattern": "(?=x)"}, "functions[0].pattern"),
        ({**functions[1], "kind": "code"}, "functions[0]"),
        ({**functions[4], "file_id": "file-none"}, "functions[0].file_id"),
    ):
        answer = stage.http.post(f"{BASE}/{project}/functions", json={"functions": [wrong]})
        assert answer.status_code in (400, 404), answer.text
        assert answer.json()["error"]["param"].startswith(param)


def test_dawid_skene_weighs_labellers_by_how_far_they_are_right(stage: Stage) -> None:
    rng = random.Random(2)
    rows = [{"text": f"text {n}"} for n in range(60)]
    project, _ = stage.project("weighed", rows, labels_per_item=3)
    people = [stage.labeller(project, name) for name in ("good", "poor", "worse")]
    truth = [rng.choice(["good", "bad"]) for _ in rows]
    for item, right in zip(stage.items(project), truth, strict=True):
        for person, accuracy in zip(people, (1.0, 0.6, 0.55), strict=True):
            other = {"good": "bad", "bad": "good"}[right]
            say(person, item["id"], {"label": right if rng.random() < accuracy else other})
    shares = {}
    for method in ("majority", "dawid_skene"):
        told = stage.result(stage.post(f"{BASE}/{project}/export", {"method": method}))
        lines = stage.lines(told["file_id"])
        shares[method] = sum(line["label"] == right for line, right in zip(lines, truth, strict=True)) / 60
    assert shares["dawid_skene"] > shares["majority"]


def test_the_command_line_goes_from_a_file_to_a_version(stage: Stage, tmp_path: Path) -> None:
    def heliu(*words: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, ["label", *words, "--json"])
        if result.exception is not None:
            raise result.exception
        told: dict[str, Any] = json.loads(result.stdout)
        return told

    rows = [{"text": f"{row['text']}", "id": str(n)} for n, row in enumerate(reviews(12, 3))]
    source = tmp_path / "reviews.jsonl"
    source.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    with environment(HELIU_GATEWAY_URL=stage.url, HELIU_API_KEY=stage.harness.key()):
        options = (
            "--task",
            "classification",
            "--labels",
            "good,bad",
            "--per-item",
            "2",
            "--file",
            str(source),
        )
        made = heliu("project", "create", "by-command", *options)
        assert (made["import"]["added"], made["progress"]["items"]) == (12, 12)
        assert "by-command" in {row["name"] for row in heliu("project", "list")["data"]}
        tokens = [heliu("labeller", "add", "by-command", name) for name in ("li", "wang")]
        assert tokens[0]["page"] == f"{stage.url}/label/{made['id']}"
        for token in tokens:
            with httpx.Client(
                base_url=stage.url, headers={"authorization": f"Bearer {token['token']}"}
            ) as person:
                for number, item in enumerate(stage.items(made["id"])):
                    path = f"{BASE}/{made['id']}/work/items/{item['id']}/labels"
                    label = "good" if number % 2 else "bad"
                    assert person.post(path, json={"value": {"label": label}}).status_code == 200
        assert heliu("agreement", "by-command")["value"] == 1.0
        assert {row["labelled"] for row in heliu("labeller", "list", "by-command")["data"]} == {12}
        written = tmp_path / "studio.json"
        assert heliu("export", "by-command", str(written), "--label-studio")["items"] == 12
        heliu("project", "create", "copy", "--task", "classification", "--labels", "good,bad")
        assert heliu("import", "copy", str(written))["added"] == 12
        heliu("suspects", "by-command")
        with pytest.raises(HeliuError, match="nothing to pick from"):
            heliu("pick", "by-command")
        declared = tmp_path / "functions.json"
        keyword = {"kind": "keyword", "name": "love", "label": "good", "any": ["love"]}
        declared.write_text(json.dumps({"functions": [keyword]}))
        assert heliu("functions", "by-command", str(declared))["functions"][0]["name"] == "love"
        recipe = tmp_path / "recipe.json"
        recipe.write_text(json.dumps({"version": 1, "steps": []}))
        built = heliu("build", "by-command", "--dataset", "by-command", "--recipe", str(recipe))
        assert built["rows"]["total"] == 12
        assert heliu("project", "remove", "copy")["deleted"] is True
        with pytest.raises(HeliuError, match="no labelling project 'copy'"):
            heliu("project", "show", "copy")


def test_a_killed_worker_loses_no_item_and_doubles_none(stage: Stage) -> None:
    rows = [{"text": f"{n} " + "很长的文本 " * 40} for n in range(6000)]
    file = stage.rows("many.jsonl", rows)
    made = stage.post(BASE, {"name": "killed", "task": "classification", "labels": ["a"], "file_id": file})
    job = made["job"]["id"]
    wait_for(lambda: stage.harness.job(job).progress.get("items", 0) > 0, 60, "the first items")
    stage.worker.kill()
    assert stage.harness.job(job).progress["items"] < len(rows), "the import was over before the kill"
    stage.worker = stage.harness.start("data_governance")
    assert stage.harness.wait_job(job).state == "succeeded"
    with stage.harness.db.transaction(stage.harness.tenant) as c:
        row = c.execute(
            "SELECT count(*) AS n, count(DISTINCT data ->> 'text') AS texts, max(position) AS last "
            "FROM data_governance.label_item WHERE project_id = %s",
            (made["id"],),
        ).fetchone()
    assert row == {"n": 6000, "texts": 6000, "last": 5999}
