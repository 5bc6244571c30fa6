"""A task on the real engine: sentiment as one of three words, plain, streamed and as rows of a batch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.stage import Stage
from tests.harness import wait_for

pytestmark = pytest.mark.timeout(900)

LABELS = ["positive", "neutral", "negative"]


@pytest.fixture(scope="module")
def task(stage: Stage) -> str:
    """The ready task with words that fit into the context of a model of the tests."""
    (ready,) = [t for t in stage.get("/v1/ready_tasks")["data"] if t["name"] == "sentiment"]
    short = {"model": stage.tuned, "system": "sentiment", "prompt": "{{ subject }} {{ text }}"}
    guards = {"input": {"pii": {"action": "refuse"}}}
    spec = {**ready["spec"], **short, "guards": guards}
    return str(stage.post("/v1/tasks", {"name": "sentiment", "spec": spec})["model"])


def test_a_task_answers_with_one_of_its_words(stage: Stage, task: str) -> None:
    client = stage.openai()
    said: Any = [{"role": "user", "content": "物流太慢了"}]
    plain = client.chat.completions.create(model=task, messages=said, n=2)
    assert [choice.message.content in LABELS for choice in plain.choices] == [True, True]
    assert plain.model == f"{task}@1"
    stream = client.chat.completions.create(
        model=task, messages=[], stream=True, extra_body={"variables": {"text": "很好", "language": "en"}}
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) in LABELS


def test_the_rows_of_a_batch_keep_the_task_that_stood_when_it_was_accepted(stage: Stage, task: str) -> None:
    texts = {"good": "很好", "bad": "太慢", "private": "电话13800138000"}
    rows = [(name, {"model": task, "variables": {"text": text}}) for name, text in texts.items()]
    file = stage.batch_file(rows)
    client = stage.openai()
    made = client.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h")
    with stage.http() as http:
        assert http.delete("/v1/tasks/sentiment").status_code == 200
    wait_for(lambda: client.batches.retrieve(made.id).status in ("completed", "failed"), 240, "the batch")
    batch = client.batches.retrieve(made.id)
    assert batch.status == "completed", batch.errors
    output = _lines(client, batch.output_file_id)
    assert set(output) == {"good", "bad"}
    for line in output.values():
        assert line["response"]["body"]["model"] == "task:sentiment@1"
        assert line["response"]["body"]["choices"][0]["message"]["content"] in LABELS
    (private,) = _lines(client, batch.error_file_id).values()
    told = private["response"]["body"]["error"]
    assert (told["code"], told["param"]) == ("content_filter", "body.variables.text")
    wait_for(lambda: len(stage.usage_rows(f"{made.id}:")) == 2, 30, "the ledger")
    for row in stage.usage_rows(f"{made.id}:"):
        assert row["metadata"] == {"task": "sentiment", "task_version": 1}
        assert row["model"] == stage.tuned


def _lines(client: Any, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    rows = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    return {row["custom_id"]: row for row in rows}
