"""A large batch on the running platform: a chat beside it, a kill -9 in the middle of it, and what is left."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.stage import PATIENCE_S, Stage
from tests.harness import wait_for

pytestmark = pytest.mark.timeout(900)

ROWS = 260
LENGTHS = 7
TOO_LONG = (5, 130, 259)


@dataclass(frozen=True)
class Broken:
    """A batch whose worker was killed when `killed_at` rows were stored.

    `beside` is a chat answered while it ran, `between` one that was asked when no worker lived.
    """

    id: str
    killed_at: int
    beside: Any
    still_running: bool
    between: Any
    batch: Any
    output: list[dict[str, Any]]
    errors: list[dict[str, Any]]


def body(stage: Stage, number: int) -> dict[str, Any]:
    """A question whose length tells which row it was; a few do not fit into the model's context."""
    words = 2000 if number in TOO_LONG else number % LENGTHS + 1
    messages = [{"role": "user", "content": " ".join(["快递 delivery"] * words)}]
    return {"model": stage.tuned, "messages": messages, "max_tokens": 24, "temperature": 1, "seed": number}


def completed(stage: Stage, batch_id: str) -> int:
    counts = stage.openai().batches.retrieve(batch_id).request_counts
    return counts.completed if counts else 0


def ask(stage: Stage) -> Any:
    hello: Any = [{"role": "user", "content": "hello"}]
    client = stage.openai(max_retries=0)
    return client.chat.completions.create(model=stage.tuned, messages=hello, max_tokens=4)


@pytest.fixture(scope="module")
def broken(stage: Stage) -> Broken:
    client = stage.openai()
    batch = client.batches.create(
        input_file_id=stage.batch_file([(f"行 {n}", body(stage, n)) for n in range(ROWS)]),
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )
    wait_for(lambda: completed(stage, batch.id) > 0, PATIENCE_S, "the first rows")
    beside = ask(stage)
    still_running = client.batches.retrieve(batch.id).status == "in_progress"
    wanted = random.randint(1, ROWS // 3)
    wait_for(lambda: completed(stage, batch.id) >= wanted, PATIENCE_S, f"{wanted} rows")
    engine = stage.child_of("inference")
    stage.running["inference"].kill()
    engine.wait(PATIENCE_S)
    killed_at = completed(stage, batch.id)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, stage)
        stage.restart("inference")
        between = asked.result(PATIENCE_S)
    stage.ended(batch.id)
    ended = client.batches.retrieve(batch.id)
    texts = [
        client.files.content(file).text if file else ""
        for file in (ended.output_file_id, ended.error_file_id)
    ]
    output, errors = ([json.loads(line) for line in text.splitlines()] for text in texts)
    return Broken(batch.id, killed_at, beside, still_running, between, ended, output, errors)


def test_a_chat_is_answered_while_a_large_batch_runs(broken: Broken) -> None:
    assert broken.beside.usage.completion_tokens > 0
    assert broken.still_running


def test_a_chat_that_is_asked_when_no_worker_lives_is_answered_by_the_next(broken: Broken) -> None:
    assert broken.between.usage.completion_tokens > 0


def test_a_killed_worker_loses_and_doubles_no_row(broken: Broken) -> None:
    assert 0 < broken.killed_at < ROWS
    answered = [f"行 {n}" for n in range(ROWS) if n not in TOO_LONG]
    assert [row["custom_id"] for row in broken.output] == answered, f"killed at row {broken.killed_at}"
    assert [row["custom_id"] for row in broken.errors] == [f"行 {n}" for n in TOO_LONG]
    assert len({row["id"] for row in broken.output + broken.errors}) == ROWS
    assert broken.batch.status == "completed"
    counts = broken.batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (ROWS, ROWS - len(TOO_LONG), len(TOO_LONG))


def test_the_kill_was_felt_and_healed(broken: Broken, stage: Stage) -> None:
    parts = stage.get("/v1/jobs", parts="true", kind="inference.batch_shard", limit=100)["data"]
    ours = [part for part in parts if part["parent_id"] == broken.id]
    assert {part["status"] for part in ours} == {"succeeded"}
    assert sum(part["crashes"] for part in ours) >= 1, f"killed at row {broken.killed_at}"


def test_every_answer_is_the_one_to_its_own_question(broken: Broken) -> None:
    by_length: dict[int, set[int]] = {}
    for row in broken.output:
        number = int(row["custom_id"].split()[1])
        usage = row["response"]["body"]["usage"]
        by_length.setdefault(number % LENGTHS, set()).add(usage["prompt_tokens"])
    assert sorted(by_length) == list(range(LENGTHS))
    assert all(len(seen) == 1 for seen in by_length.values())
    assert len(set.union(*by_length.values())) == LENGTHS


def test_a_row_that_cannot_be_answered_says_why(broken: Broken) -> None:
    for row in broken.errors:
        assert row["response"]["status_code"] == 400
        error = row["response"]["body"]["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


def test_the_ledger_has_one_row_for_every_answered_row(broken: Broken, stage: Stage) -> None:
    ledger = stage.usage_rows(f"{broken.id}:")
    assert sorted(int(row["request_id"].split(":")[1]) for row in ledger) == [
        n for n in range(ROWS) if n not in TOO_LONG
    ]
    assert {(row["model"], row["status"], row["job_id"]) for row in ledger} == {
        (stage.tuned, "ok", broken.id)
    }
    tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in ledger)
    assert broken.batch.usage.total_tokens == tokens


def test_a_batch_whose_window_ends_expires_with_what_was_answered(stage: Stage) -> None:
    client = stage.openai()
    file = stage.batch_file([(f"r{n}", {**body(stage, 0), "max_tokens": 200}) for n in range(2000)])
    batch = client.batches.create(
        input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert batch.expires_at is not None
    assert batch.expires_at - batch.created_at in (86_399, 86_400, 86_401)
    wait_for(lambda: completed(stage, batch.id) > 0, PATIENCE_S, "the first rows")
    with stage.harness.db.core() as connection:
        connection.execute("UPDATE core.job SET expires_at = now() WHERE id = %s", (batch.id,))
    ended = stage.ended(batch.id)
    assert ended["status"] == "expired"
    shown = client.batches.retrieve(batch.id)
    assert shown.status == "expired"
    assert shown.request_counts is not None
    assert 0 < shown.request_counts.completed < 2000
    assert shown.request_counts.completed + shown.request_counts.failed == 2000
    assert shown.output_file_id is not None
    assert shown.error_file_id is not None
    answered = client.files.content(shown.output_file_id).text.splitlines()
    unanswered = [json.loads(line) for line in client.files.content(shown.error_file_id).text.splitlines()]
    assert len(answered) == shown.request_counts.completed
    assert {row["response"]["body"]["error"]["code"] for row in unanswered} == {"batch_expired"}
