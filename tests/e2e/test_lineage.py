"""From a generated answer to the source rows of its adapter, and from a row to every answer; on the whole platform."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.main import app
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


def test_a_student_of_stored_answers_leads_back_to_them_and_to_its_teacher(stage: Stage) -> None:
    client = stage.openai()
    said = [
        client.chat.completions.create(
            model=stage.tuned,
            messages=[{"role": "system", "content": "客服"}, {"role": "user", "content": f"{n} 天退款吗"}],
            store=True,
            metadata={"use": "distill"},
            extra_body={"structured_outputs": {"choice": ["好的 okay"]}},
        )
        for n in range(4)
    ]
    cut = client.chat.completions.create(
        model=stage.tuned, messages=ASK, max_tokens=1, store=True, metadata={"use": "distill"}
    )
    assert cut.choices[0].finish_reason == "length"
    asked = ["stored", "export", "--model", stage.tuned, "--metadata", "use=distill", "--json"]
    told = CliRunner().invoke(app, asked, env={"HELIU_GATEWAY_URL": stage.url, "HELIU_API_KEY": stage.key})
    assert told.exit_code == 0, told.output
    made = json.loads(told.stdout)
    assert (made["rows"], made["left_out"]) == (4, {"cut": 1})
    lines = client.files.content(made["file_id"]).text.splitlines()
    assert json.loads(lines[-1])["messages"] == [
        {"role": "system", "content": "客服"},
        {"role": "user", "content": "0 天退款吗"},
        {"role": "assistant", "content": "好的 okay"},
    ]
    job = client.fine_tuning.jobs.create(
        model=stage.base,
        training_file=made["file_id"],
        suffix="student",
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"batch_size": 2, "max_steps": 2}},  # type: ignore[typeddict-unknown-key]
        },
    )
    student = stage.succeeded(job.id)["result"]["fine_tuned_model"]
    shape = stage.get(f"/v1/lineage/{student}", rows=0)
    assert made["file_id"] in ids(shape, "file")
    assert set(ids(shape, "answer")) == {one.id for one in said}
    assert {stage.tuned, stage.base} <= set(ids(shape, "model"))
    onward = stage.get(f"/v1/lineage/{said[0].id}", direction="downstream")
    assert student in ids(onward, "model")
