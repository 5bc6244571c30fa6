"""What the API tells of a governed upload, beyond its job."""

from __future__ import annotations

import json

from tests.e2e.stage import Stage


def test_every_row_that_could_not_be_read_is_told_with_its_line(stage: Stage) -> None:
    good = json.dumps({"question": "q", "answer": "a"}).encode()
    lines = [good if n % 3 == 0 else b"{bad" for n in range(900)]
    job = stage.govern("dirty", b"\n".join(lines))
    path = f"/v1/datasets/dirty/versions/{job['result']['version_id']}/bad_rows"
    first = stage.get(path, limit=500)
    assert (first["total"], first["has_more"]) == (600, True)
    rest = stage.get(path, offset=500, limit=500)
    assert not rest["has_more"]
    told = [*first["data"], *rest["data"]]
    assert [row["line"] for row in told] == [n + 1 for n in range(900) if n % 3]
    assert {row["code"] for row in told} == {"not_json"}


def _rows(count: int) -> bytes:
    rows = [
        {"question": f"问题 {n} 怎么办？电话13800138000", "answer": f"答案 {n}", "label": str(n % 7)}
        for n in range(count)
    ]
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def test_a_build_whose_worker_is_killed_ends_in_the_same_version_and_leaves_nothing(stage: Stage) -> None:
    file = stage.upload("killed.jsonl", _rows(15_000), "user_data")
    job = stage.post("/v1/datasets", {"name": "killed", "file_id": file})["id"]
    stage.until(job, lambda found: found["progress"].get("rows_read", 0) > 0)
    stage.running["data_governance"].kill()
    scratch = stage.harness.settings.artifact_folder / "scratch"
    assert list(scratch.glob(f"{job}*")), "the build was over before the kill"
    stage.restart("data_governance")
    ended = stage.succeeded(job)
    assert ended["crashes"] == 1
    assert list(scratch.glob(f"{job}*")) == []
    untouched = stage.succeeded(stage.post("/v1/datasets", {"name": "untouched", "file_id": file})["id"])
    assert untouched["result"]["version_id"] == ended["result"]["version_id"]
    assert ended["result"]["rows"]["total"] == 15_000


def test_a_build_that_two_workers_share_ends_in_the_version_of_one_though_one_is_killed(stage: Stage) -> None:
    file = stage.upload("shared.jsonl", _rows(12_000), "user_data")
    one = stage.succeeded(stage.post("/v1/datasets", {"name": "by-one", "file_id": file})["id"])
    stage.running["data_governance"].stop()
    cut = {"HELIU_BUILD_PART_BYTES": "150000"}
    first, second = (stage.harness.start("data_governance", index, **cut) for index in (1, 2))
    job = stage.post("/v1/datasets", {"name": "by-two", "file_id": file})["id"]
    stage.until(job, lambda found: found["progress"].get("parts_done", 0) > 1)
    first.kill()
    ended = stage.succeeded(job)
    second.stop()
    stage.restart("data_governance")
    assert ended["progress"]["parts"] > 5
    assert ended["result"]["version_id"] == one["result"]["version_id"]
    report = stage.get(f"/v1/datasets/by-two/versions/{ended['result']['version_id']}")["report"]
    assert report == stage.get(f"/v1/datasets/by-one/versions/{one['result']['version_id']}")["report"]


def test_several_files_become_one_version_and_a_wrong_choice_of_them_is_told(stage: Stage) -> None:
    files = [
        stage.upload(f"{name}.jsonl", json.dumps({"question": name, "answer": "a"}).encode(), "user_data")
        for name in ("first", "second")
    ]
    ended = stage.succeeded(stage.post("/v1/datasets", {"name": "of-two", "file_ids": files})["id"])
    assert ended["result"]["rows_in"] == 2
    with stage.http() as http:
        for body, param in (
            ({"name": "x"}, "file_id"),
            ({"name": "x", "file_id": files[0], "file_ids": files}, "file_id"),
            ({"name": "x", "file_ids": [files[0], files[0]]}, "file_ids[1]"),
            ({"name": "x", "file_ids": [files[0], "file-none"]}, "file_ids[1]"),
            ({"name": "x", "file_ids": []}, "file_ids"),
        ):
            answer = http.post("/v1/datasets", json=body)
            assert answer.status_code in (400, 404), answer.text
            assert answer.json()["error"]["param"] == param


def test_a_recipe_is_tried_on_the_first_rows_and_stores_nothing(stage: Stage) -> None:
    rows = [{"text": f"电话13800138000 第{n}"} for n in range(300)] + [{"text": " "}] * 300
    file = stage.upload("tried.jsonl", "\n".join(map(json.dumps, rows)).encode(), "user_data")
    steps = [{"op": "drop_empty"}, {"op": "mask_pii"}]
    body = {"file_ids": [file], "recipe": {"steps": steps}, "rows": 400, "shown": 3}
    before = stage.get("/v1/datasets")["data"]
    found = stage.post("/v1/recipes/try", body)
    assert (found["report"]["rows_in"], found["report"]["dropped"]) == (400, {"empty": 100})
    assert found["recipe"]["input"]["text"] == "text"
    assert [row["text"] for row in found["rows"]] == [f"电话[PHONE] 第{n}" for n in range(3)]
    assert stage.get("/v1/datasets")["data"] == before
    with stage.http() as http:
        wrong = http.post("/v1/recipes/try", json={**body, "recipe": {"steps": [{"op": "drop_emty"}]}})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "recipe.steps[0]")
        mapped = http.post("/v1/recipes/try", json={**body, "recipe": {"input": {"text": "body"}}})
        assert (mapped.status_code, mapped.json()["error"]["code"]) == (400, "unknown_column")
