"""From a generated answer to the source rows of its adapter, and from a row to every answer; on the whole platform."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.stage import ROOT, Stage, sample
from tests.harness import wait_for

pytestmark = pytest.mark.timeout(900)

ASK: list[Any] = [{"role": "user", "content": "退款多久到账"}]


def answered(stage: Stage, model: str) -> str:
    """The id of an answer of the model, once the ledger has it."""
    told = stage.openai().chat.completions.create(model=model, messages=ASK, max_tokens=4)

    def known() -> bool:
        with stage.http() as http:
            return http.get(f"/v1/lineage/{told.id}", params={"rows": 0}).status_code == 200

    wait_for(known, 20, "the answer in the ledger")
    return told.id


def ids(shape: dict[str, Any], kind: str) -> list[str]:
    return [node["id"] for node in shape["nodes"] if node["kind"] == kind]


def test_an_answer_leads_to_the_source_rows_of_its_adapter_in_one_call(stage: Stage) -> None:
    answer = answered(stage, stage.tuned)
    shape = stage.get(f"/v1/lineage/{answer}", rows=500)
    assert ids(shape, "model")[0] == stage.tuned
    assert stage.base in ids(shape, "model")
    assert ids(shape, "version") == [stage.version]
    page = shape["rows"][stage.version]
    version = stage.get(f"/v1/datasets/service/versions/{stage.version}")
    assert page["total"] == len(page["data"]) == version["rows"]
    (file,) = ids(shape, "file")
    assert file == version["file_id"]
    # The rows are those of the lines of the upload.
    lines = sample().split(b"\n")
    rows = stage.get(f"/v1/datasets/service/versions/{stage.version}/rows", limit=5)["data"]
    for row in rows:
        listed = [one for one in page["data"] if one["row_id"] == row["_row_id"]]
        assert [one["line"] for one in listed] == [row["_source_line"]]
        source = json.loads(lines[row["_source_line"] - 1])
        assert str(source.get("id", row["id"])) == row["id"]


def test_a_row_leads_to_every_answer_that_it_may_have_shaped(stage: Stage) -> None:
    live, of_base = answered(stage, stage.tuned), answered(stage, stage.base)
    body = {"model": stage.tuned, "messages": ASK, "max_tokens": 3}
    with stage.http() as http:
        job = http.post("/v1/chat/completions", json={**body, "background": True}).json()["id"]
    background = stage.succeeded(job)["result"]["answer"]
    file = stage.batch_file([("one", body)])
    window = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = stage.post("/v1/batches", {"input_file_id": file, **window})["id"]
    result = stage.succeeded(batch)["result"]
    with stage.http() as http:
        output = http.get(f"/v1/files/{result['output_file_id']}/content").text
    of_batch = json.loads(output)["response"]["body"]["id"]
    row = stage.get(f"/v1/lineage/{stage.version}")["rows"][stage.version]["data"][0]["row_id"]
    shape = stage.get(f"/v1/lineage/{row}", direction="downstream", limit=500)
    assert {live, of_base, background, of_batch} <= set(ids(shape, "answer"))
    assert stage.version in ids(shape, "version")
    listed = stage.get(f"/v1/lineage/{row}/answers", limit=100)["data"]
    assert {live, of_base, background, of_batch} <= {one["id"] for one in listed}
    above = stage.get(f"/v1/lineage/{row}")
    assert stage.get(f"/v1/datasets/service/versions/{stage.version}")["file_id"] in ids(above, "file")


def test_another_tenant_finds_no_row_and_no_answer(stage: Stage) -> None:
    rival = stage.new_tenant("lineage-rival")
    row = stage.get(f"/v1/lineage/{stage.version}")["rows"][stage.version]["data"][0]["row_id"]
    with stage.http(rival) as http:
        for name in (row, stage.version, stage.tuned):
            assert http.get(f"/v1/lineage/{name}").status_code == 404


def test_the_command_line_draws_a_tree_from_model_to_rows(stage: Stage) -> None:
    environ = {"HELIU_GATEWAY_URL": stage.url, "HELIU_API_KEY": stage.key, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-m", "services.cli.main", "data", "lineage", stage.tuned, "--rows", "2"],
        env={**environ, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert f"trained on: version {stage.version}" in ran.stdout
    assert ran.stdout.count("row row-") >= 2
    assert "governed: file file-" in ran.stdout
