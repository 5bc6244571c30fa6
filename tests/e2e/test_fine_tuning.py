"""Fine-tuning on the running platform: told while it runs, paused, cancelled, killed, served."""

from __future__ import annotations

import random
import time

import openai
import pytest

from tests.e2e.stage import PATIENCE_S, TUNING, Stage
from tests.harness import wait_for

pytestmark = pytest.mark.timeout(900)

STEPS = TUNING["max_steps"]
# Between the first checkpoint and a moment that leaves time to hit the run before it is over.
EARLIEST, LATEST = 9, 28


def wait_for_step(stage: Stage, job_id: str, step: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while stage.last_step(job_id) < step:
        assert time.monotonic() < deadline, stage.get(f"/v1/jobs/{job_id}")
        time.sleep(0.02)


def resumed_at(stage: Stage, job_id: str) -> list[int]:
    """Steps of the checkpoints that attempts went on from."""
    told = [e["message"] for e in stage.events(job_id)]
    start = "resuming from the checkpoint at step "
    return [int(text.removeprefix(start)) for text in told if text.startswith(start)]


def same_curve(stage: Stage, job_id: str) -> None:
    """Every step of the job told what the uninterrupted run with the same seed did."""
    whole, broken = stage.curve(stage.tuning), stage.curve(job_id)
    assert sorted(whole) == list(range(1, STEPS + 1))
    assert broken == whole


def test_metrics_are_told_while_the_job_runs_and_a_pause_keeps_the_loss_curve(stage: Stage) -> None:
    client = stage.openai()
    job = stage.tune()["id"]
    wait_for_step(stage, job, EARLIEST)
    trainer = stage.child_of("training")
    # However fast this machine trains: the run stands still until the trainer's worker has heard of the pause.
    trainer.suspend()
    assert client.fine_tuning.jobs.retrieve(job).status == "running"
    client.fine_tuning.jobs.pause(job)
    stage.until(
        job, lambda _: any("to stop at its next step: pause" in e["message"] for e in stage.events(job))
    )
    trainer.resume()
    paused = stage.until(job, lambda j: j["status"] == "paused")
    step = stage.last_step(job)
    assert EARLIEST <= step < STEPS
    # The pause is at a checkpoint of its own: nothing that was learned is learned again.
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job))
    assert max(c.step_number for c in checkpoints) == step == paused["progress"]["checkpoint"]["step"]
    assert (paused["worker"], paused["result"]) == (None, None)
    client.fine_tuning.jobs.resume(job)
    done = stage.succeeded(job)
    assert resumed_at(stage, job) == [step]
    assert done["crashes"] == 0
    same_curve(stage, job)


def test_a_trainer_that_is_killed_goes_on_from_its_last_whole_checkpoint(stage: Stage) -> None:
    step = random.randint(EARLIEST, LATEST)
    job = stage.tune()["id"]
    wait_for_step(stage, job, step)
    stage.child_of("training").kill()
    done = stage.succeeded(job)
    assert done["crashes"] == 1, f"killed at step {step}"
    (checkpoint,) = resumed_at(stage, job)
    assert checkpoint >= step // 8 * 8 - 8, f"killed at step {step}"
    same_curve(stage, job)
    # What is kept of it has each step once, whatever was told twice.
    (table,) = done["result"]["result_files"]
    with stage.http() as http:
        rows = http.get(f"/v1/files/{table}/content").text.splitlines()
        assert http.get(f"/v1/training/jobs/{job}/tensorboard").content[:2] == b"PK"
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(1, STEPS + 1))
    curves = stage.get(f"/v1/training/jobs/{job}/curves", metrics="train_loss")["data"]
    assert [point[0] for point in curves[0]["points"]] == list(range(1, STEPS + 1))
    measured = done["result"]["measured"]
    assert measured["parameters"] > measured["trained_parameters"] > 0
    assert measured["peak_memory_bytes"] > 100 * 2**20


def test_a_training_worker_that_is_killed_hands_its_job_on_with_the_same_loss_curve(stage: Stage) -> None:
    step = random.randint(EARLIEST, LATEST)
    job = stage.tune()["id"]
    wait_for_step(stage, job, step)
    trainer = stage.child_of("training")
    stage.running["training"].kill()
    # A trainer without a worker must not go on writing checkpoints.
    trainer.wait(PATIENCE_S)
    stage.restart("training")
    done = stage.succeeded(job)
    assert done["crashes"] == 1, f"killed at step {step}"
    assert len(resumed_at(stage, job)) == 1, f"killed at step {step}"
    same_curve(stage, job)
    tuned = stage.openai().models.retrieve(done["result"]["fine_tuned_model"])
    assert tuned.model_dump()["job_id"] == job


def test_a_running_job_is_cancelled_and_leaves_no_model(stage: Stage) -> None:
    client = stage.openai()
    job = stage.tune(max_steps=5000)["id"]
    wait_for_step(stage, job, 2)
    client.fine_tuning.jobs.cancel(job)
    ended = stage.ended(job)
    assert (ended["status"], ended["result"]) == ("cancelled", None)
    assert client.fine_tuning.jobs.retrieve(job).fine_tuned_model is None
    assert job not in {m.model_dump()["job_id"] for m in client.models.list() if "ckpt" not in m.id}


def test_a_finished_adapter_and_its_checkpoints_are_served_at_once_beside_their_base(stage: Stage) -> None:
    client = stage.openai()
    checkpoints = client.fine_tuning.jobs.checkpoints.list(stage.tuning)
    names = [stage.base, stage.tuned, checkpoints.data[-1].fine_tuned_model_checkpoint]
    before = stage.running["inference"].pid
    answers = {
        name: client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": "快递几天到？"}],
            max_tokens=24,
            temperature=1,
            seed=3,
        )
        for name in names
    }
    assert all(answer.usage and answer.usage.completion_tokens for answer in answers.values())
    assert len({answer.choices[0].message.content for answer in answers.values()}) == len(names)
    # The newest were held against the engine, as the end was; an older one says that it was not.
    parity = {
        c.step_number: stage.get(f"/v1/models/{c.fine_tuned_model_checkpoint}")["info"]["parity"]
        for c in checkpoints.data
    }
    assert parity[56]["passed"] is True
    assert parity[8]["passed"] is None
    assert (before, stage.running["inference"].alive) == (stage.running["inference"].pid, True)


def test_a_version_that_fails_its_gate_is_refused_with_the_reason(stage: Stage) -> None:
    recipe = {"version": 1, "steps": [{"op": "normalize_text"}], "gates": {"min_rows": 1000}}
    line = '{"messages": [{"role": "user", "content": "q%d"}, {"role": "assistant", "content": "a%d"}]}\n'
    job = stage.govern("too-small", "".join(line % (n, n) for n in range(20)).encode(), recipe)
    assert job["result"]["gate"]["passed"] is False
    client = stage.openai()
    with pytest.raises(openai.BadRequestError, match="min_rows: rows is 20, at least 1000") as caught:
        client.fine_tuning.jobs.create(model=stage.base, training_file=job["result"]["version_id"])
    assert (caught.value.code, caught.value.param) == ("dataset_gate_failed", "training_file")


def test_a_job_whose_data_cannot_be_learned_from_fails_with_the_line_at_fault(stage: Stage) -> None:
    good = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
    file = stage.upload("broken.jsonl", good * 3 + b'{"messages": "none"}\n', "fine-tune")
    client = stage.openai()
    job = client.fine_tuning.jobs.create(model=stage.base, training_file=file)
    assert stage.ended(job.id)["status"] == "failed"
    error = client.fine_tuning.jobs.retrieve(job.id).error
    assert error is not None
    assert (error.code, error.param) == ("invalid_training_file", "training_file")
    assert "line 4" in error.message


def test_preferences_train_the_adapter_further_and_the_engine_agrees(stage: Stage) -> None:
    """OpenAI's method dpo, from an adapter: the new one stands on the same base, and is served at once."""
    ask = "你好，快递几天到？ number %d"
    pair = (
        '{"input": {"messages": [{"role": "user", "content": "%s"}]}, "preferred_output": [{"role": "assistant", '
        '"content": "三天到。"}], "non_preferred_output": [{"role": "assistant", "content": "不知道。"}]}\n'
    )
    file = stage.upload("pairs.jsonl", "".join(pair % (ask % n) for n in range(24)).encode(), "fine-tune")
    client = stage.openai()
    job = client.fine_tuning.jobs.create(
        model=stage.tuned,
        training_file=file,
        method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "batch_size": 8, "beta": 0.1}}},
    )
    result = stage.succeeded(job.id)["result"]
    assert result["parity"]["passed"]
    assert 0 < result["parity"]["max_abs_difference"] <= result["parity"]["tolerance"]
    assert {"pairs", "preference_accuracy", "reward_accuracy"} <= set(result["held_out"])
    made = client.models.retrieve(result["fine_tuned_model"]).model_dump()
    assert (made["kind"], made["base"], made["info"]["started_from"]) == ("adapter", stage.base, stage.tuned)
    assert made["info"]["pinned"]["stop_tokens"]
    assert {"tokenizer.json", "generation_config.json"} <= set(made["info"]["pinned"])
    assert client.chat.completions.create(
        model=result["fine_tuned_model"], messages=[{"role": "user", "content": "快递几天到？"}], max_tokens=4
    ).usage
    fine_tuning = client.fine_tuning.jobs.retrieve(job.id)
    assert (fine_tuning.status, fine_tuning.fine_tuned_model) == ("succeeded", result["fine_tuned_model"])


def test_a_base_is_trained_on_with_texts_and_knows_them_better(stage: Stage) -> None:
    text = '{"text": "快递通常三天到，周末也送。 Parcels take three days, number %d."}\n'
    file = stage.upload("texts.jsonl", "".join(text % n for n in range(80)).encode(), "fine-tune")
    job = stage.post(
        "/v1/training/jobs",
        {
            "type": "pretrain",
            "name": "trained-on",
            "model": stage.base,
            "training_file": file,
            "hyperparameters": {"max_steps": 12},
            "decoding": {"temperature": 0, "max_tokens": 5},
        },
    )
    result = stage.succeeded(job["id"])["result"]
    assert result["held_out"]["perplexity"] < result["baseline"]["perplexity"]
    assert result["baseline"]["name"] == "the model before"
    assert result["parity"]["passed"]
    made = stage.openai().models.retrieve("trained-on").model_dump()
    assert (made["kind"], made["base"]) == ("base", stage.base)
    pinned = {"temperature": 0.0, "max_tokens": 5}
    assert made["decoding"] == made["info"]["pinned"]["decoding"] == pinned
    asked = {"model": "trained-on", "messages": [{"role": "user", "content": "How long does it take?"}]}
    with stage.http() as http:
        job = http.post("/v1/chat/completions", json={**asked, "background": True}).json()["id"]
    live = [stage.post("/v1/chat/completions", asked) for _ in range(2)]
    drawn = stage.post("/v1/chat/completions", {**asked, "temperature": 1.0, "max_tokens": 7})
    stage.succeeded(job)
    window = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = stage.post("/v1/batches", {"input_file_id": stage.batch_file([("one", asked)]), **window})
    stage.succeeded(batch["id"])
    assert live[0]["choices"] == live[1]["choices"]
    assert live[0]["usage"]["completion_tokens"] <= 5
    assert drawn["usage"]["completion_tokens"] <= 7
    # What the model decided stands with each answer in the ledger, however it was asked.
    wait_for(lambda: len(decided(stage, "trained-on")) == 5, PATIENCE_S, "five answers in the ledger")
    assert decided(stage, "trained-on") == [None] + [pinned] * 4


def decided(stage: Stage, model: str) -> list[dict[str, float] | None]:
    """What the ledger says of decoding settings that were the model's own, answers without any first."""
    with stage.harness.db.core() as connection:
        rows = connection.execute("SELECT metadata FROM gateway.usage WHERE model = %s", (model,)).fetchall()
    return sorted((row["metadata"].get("decoding") for row in rows), key=lambda found: found is not None)
