"""A model from a folder: added by the command line, chatted with, tuned, and removed, on the running platform."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stage import PATIENCE_S, TUNING, Stage
from tests.harness import ROOT, wait_for
from tests.unit.inference.tiny_models import save_adapter, save_model

pytestmark = pytest.mark.timeout(900)

QUESTION = [{"role": "user", "content": "快递几天到？"}]


def heliu(stage: Stage, *words: str, key: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli.main", *words],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("HELIU_")},
            "HELIU_GATEWAY_URL": stage.url,
            "HELIU_API_KEY": key or stage.key,
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def told(stage: Stage, *words: str, key: str = "") -> Any:
    """What a verb that must succeed prints with --json."""
    ran = heliu(stage, *words, "--json", key=key)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def workers(stage: Stage, *, holding: str) -> list[dict[str, Any]]:
    """What `heliu workers list` says of the workers that hold this base, as soon as one does."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        page = told(stage, "workers", "list", key=stage.harness.key("operator"))
        found[:] = [
            worker
            for worker in page["data"]
            if any(base["name"] == holding for base in worker["info"].get("bases", ()))
        ]
        return bool(found)

    wait_for(look, PATIENCE_S, f"a worker to hold {holding}")
    return found


def test_a_folder_becomes_a_model_that_is_chatted_with_tuned_and_removed(
    stage: Stage, tmp_path: Path
) -> None:
    base = save_model(tmp_path / "tiny-qwen", "qwen2")
    added = told(stage, "models", "add", str(base))
    assert (added["model"], added["kind"], added["architecture"]) == ("tiny-qwen", "base", "Qwen2ForCausalLM")
    shown = told(stage, "models", "show", "tiny-qwen")
    assert shown["job_id"] == added["job_id"]
    assert (shown["info"]["source"], shown["info"]["context_length"]) == ("folder", 256)
    client = stage.openai()
    answer = client.chat.completions.create(model="tiny-qwen", messages=QUESTION, max_tokens=8)  # type: ignore[arg-type]
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0

    holds = [
        base["name"] for worker in workers(stage, holding="tiny-qwen") for base in worker["info"]["bases"]
    ]
    assert "tiny-qwen" in holds
    assert "tiny-qwen (" in heliu(stage, "workers", "list", key=stage.harness.key("operator")).stdout

    adapter = save_adapter(tmp_path / "tiny-lora", base, "qwen2")
    (adapter / "README.md").unlink(missing_ok=True)
    assert told(stage, "models", "add", str(adapter), "--base", "tiny-qwen")["rank"] == 4
    # Bytes that are there already are not sent again; the same model under another name is a model of its own.
    again = heliu(stage, "models", "add", str(base), "--name", "tiny-again")
    assert again.returncode == 0, again.stderr
    assert "model.safetensors: there already" in again.stderr

    tuning = client.fine_tuning.jobs.create(
        model="tiny-qwen",
        training_file=stage.version,
        suffix="added",
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {**TUNING, "max_steps": 8}},  # type: ignore[typeddict-item]
        },
    )
    tuned = stage.succeeded(tuning.id)["result"]["fine_tuned_model"]
    answers = {
        name: client.chat.completions.create(
            model=name,
            messages=QUESTION,  # type: ignore[arg-type]
            max_tokens=24,
            temperature=0,
        ).choices[0]
        for name in ("tiny-qwen", "tiny-lora", tuned)
    }
    assert len({answer.message.content for answer in answers.values()}) == 3

    refused = heliu(stage, "models", "remove", "tiny-qwen")
    assert refused.returncode == 1
    assert tuned in refused.stderr
    assert "tiny-lora" in refused.stderr
    needed = [m["id"] for m in told(stage, "models", "list")["data"] if m["base"] == "tiny-qwen"]
    for name in [*needed, "tiny-qwen", "tiny-again"]:
        assert told(stage, "models", "remove", name)["deleted"] is True
    assert client.models.retrieve(stage.base).id == stage.base
    assert heliu(stage, "models", "show", "tiny-qwen").returncode == 5


def test_a_worker_of_named_bases_answers_for_these_alone_live_and_in_batches(
    stage: Stage, tmp_path: Path
) -> None:
    for name in ("named", "other"):
        told(stage, "models", "add", str(save_model(tmp_path / name, "llama")))
    worker = stage.harness.start("inference", 1, HELIU_MODELS="named")
    client = stage.openai()
    try:
        for name in ("named", "other"):
            answer = client.chat.completions.create(model=name, messages=QUESTION, max_tokens=4)  # type: ignore[arg-type]
            assert answer.choices
        body = {"model": "named", "messages": QUESTION, "max_tokens": 4}
        rows = stage.batch_file([(str(number), body) for number in range(3)])
        window = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = stage.succeeded(stage.post("/v1/batches", {"input_file_id": rows, **window})["id"])
        assert batch["result"]["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
        parts = [
            job for job in stage.get("/v1/jobs", parts="true")["data"] if job["parent_id"] == batch["id"]
        ]
        assert [part["queue"] for part in parts] == ["inference.default.named.rows.batch"]
        (holder,) = workers(stage, holding="named")
        assert (holder["pid"], holder["info"]["serves"]) == (worker.pid, ["named"])
        assert [w["info"]["serves"] for w in workers(stage, holding="other")] == [None]
    finally:
        worker.stop()


def test_a_folder_that_is_no_model_ends_as_a_job_with_the_reason(stage: Stage, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "broken", "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    ran = heliu(stage, "models", "add", str(folder))
    assert ran.returncode == 1
    assert "auto_map" in ran.stderr
    assert heliu(stage, "models", "show", "broken").returncode == 5
