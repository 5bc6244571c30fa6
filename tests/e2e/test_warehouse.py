"""Versions asked, compared, downloaded, exported and described on the whole platform; and garbage collected."""

from __future__ import annotations

import io
import json
import os
import time
from typing import Any

import mlcroissant
import pyarrow.parquet as pq
import pytest

from tests.e2e.stage import Stage

pytestmark = pytest.mark.timeout(900)


def lines(numbers: range, **changes: str) -> bytes:
    rows = [
        {
            "id": f"d{n}",
            "messages": [
                {"role": "user", "content": f"问题{n}：办理业务{n}要带什么？"},
                {"role": "assistant", "content": changes.get(f"d{n}", f"带上证件{n}。")},
            ],
        }
        for n in numbers
    ]
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


@pytest.fixture(scope="module")
def versions(stage: Stage) -> list[str]:
    """Two versions of `counter-talk`: the second lacks d0, has d12 besides, and another answer in d5."""
    made = [
        stage.govern("counter-talk", lines(range(12)))["result"]["version_id"],
        stage.govern("counter-talk", lines(range(1, 13), d5="改为网上办理。"))["result"]["version_id"],
    ]
    return [str(version) for version in made]


def test_a_dataset_is_a_table_and_a_version_one_too(stage: Stage, versions: list[str]) -> None:
    told = stage.post("/v1/sql", {"sql": 'SELECT count(*) AS n, min(id) FROM "counter-talk"'})
    assert [column["name"] for column in told["columns"]] == ["n", "min(id)"]
    assert told["rows"] == [[12, "d1"]]
    stage_tag = "/v1/datasets/counter-talk/tags/first"
    with stage.http() as http:
        assert http.put(stage_tag, json={"version": versions[0], "expected": None}).status_code == 200
    both = f'SELECT a.id FROM "counter-talk@first" a ANTI JOIN "{versions[1]}" b ON a.id = b.id'
    assert stage.post("/v1/sql", {"sql": both})["rows"] == [["d0"]]


def test_another_tenants_dataset_is_no_table(stage: Stage, versions: list[str]) -> None:
    rival = stage.new_tenant("warehouse-rival")
    with stage.http(rival) as http:
        for table in ("counter-talk", versions[0]):
            refused = http.post("/v1/sql", json={"sql": f'SELECT * FROM "{table}"'})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_sql")
    with stage.http() as http:
        mistyped = http.post("/v1/sql", json={"sql": 'SELECT * FROM "counter-talks"'}).json()["error"]
    assert '"counter-talk"' in mistyped["message"]


def test_versions_are_compared_exactly(stage: Stage, versions: list[str]) -> None:
    told = stage.get("/v1/datasets/counter-talk/diff", **{"from": versions[0], "to": versions[1]})
    assert told["key"] == "id"
    counts = told["counts"]
    assert {name: counts[name] for name in ("added", "removed", "changed")} == {
        "added": 1,
        "removed": 1,
        "changed": 1,
    }
    assert counts["unchanged"] == 10
    (changed,) = told["samples"]["changed"]
    assert (changed["key"], changed["after"]["messages"][1]["content"]) == ("d5", "改为网上办理。")


def test_a_version_is_downloaded_and_exported_whole(stage: Stage, versions: list[str]) -> None:
    path = f"/v1/datasets/counter-talk/versions/{versions[0]}"
    with stage.http() as http:
        rows = [json.loads(line) for line in http.get(f"{path}/download").text.splitlines()]
        stored = pq.read_table(io.BytesIO(http.get(f"{path}/download", params={"format": "parquet"}).content))
        train = http.get(f"{path}/download", params={"split": "train"}).text.splitlines()
        assert http.get(f"{path}/download", params={"format": "parquet", "part": 9}).status_code == 404
    assert sorted(row["id"] for row in rows) == sorted(f"d{n}" for n in range(12))
    assert stored.column("_row_id").to_pylist() == [row["_row_id"] for row in rows]
    assert len(train) == sum(row["split"] == "train" for row in rows)
    job = stage.post(f"{path}/export", {"format": "parquet", "split": "train"})
    result = stage.succeeded(job["id"])["result"]
    assert result["rows"] == len(train)
    with stage.http() as http:
        content = http.get(f"/v1/files/{result['file_id']}/content").content
    assert pq.read_table(io.BytesIO(content)).num_rows == len(train)
    above = stage.get(f"/v1/lineage/{result['file_id']}", rows=0)
    assert job["id"] in [node["id"] for node in above["nodes"]]


def test_a_version_is_described_as_croissant(stage: Stage, versions: list[str]) -> None:
    told = stage.get(f"/v1/datasets/counter-talk/versions/{versions[0]}/croissant")
    assert told["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    dataset = mlcroissant.Dataset(jsonld=told)
    assert not dataset.metadata.ctx.issues.errors
    (records,) = dataset.metadata.record_sets
    assert {"rows/_row_id", "rows/id", "rows/split"} <= {field.id for field in records.fields}
    (file,) = dataset.metadata.distribution
    with stage.http() as http:
        content = http.get(file.content_url).content
    assert len(content) == int(file.content_size.split()[0])


def test_garbage_goes_and_what_is_named_stays(stage: Stage, versions: list[str]) -> None:
    operator = stage.harness.key("operator")

    def collected(**body: Any) -> dict[str, Any]:
        job = stage.post("/v1/artifacts/gc", {"grace_hours": 1.0, **body}, operator)
        deadline = time.monotonic() + 60
        while (now := stage.get(f"/v1/jobs/{job['id']}", operator))["status"] not in ("succeeded", "failed"):
            assert time.monotonic() < deadline, now
            time.sleep(0.05)
        assert now["status"] == "succeeded", now["error"]
        return dict(now["result"])

    file = stage.upload("forgotten.bin", os.urandom(64), "user_data")
    with stage.harness.db.transaction(stage.harness.tenant) as c:
        row = c.execute("SELECT artifact FROM gateway.file WHERE id = %s", (file,)).fetchone()
        assert row is not None
        c.execute("UPDATE gateway.file SET deleted_at = now() - interval '1 day' WHERE id = %s", (file,))
    name = row["artifact"].removeprefix("sha256:")
    objects = stage.harness.settings.artifact_folder / "objects"
    for path in objects.glob("*/*"):
        os.utime(path, (0, 0))
    assert (objects / name[:2] / name[2:]).exists()
    assert row["artifact"] in collected()["shown"]
    assert collected(dry_run=False)["objects"] >= 1
    assert not (objects / name[:2] / name[2:]).exists()
    # All that the platform has is still there: data, models, and the answers that they give.
    assert stage.post("/v1/sql", {"sql": 'SELECT count(*) FROM "counter-talk"'})["rows"] == [[12]]
    asked: list[Any] = [{"role": "user", "content": "你好"}]
    assert stage.openai().chat.completions.create(model=stage.tuned, messages=asked, max_tokens=2).choices
    assert collected()["objects"] == 0
