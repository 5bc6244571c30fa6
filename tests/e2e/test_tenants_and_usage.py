"""What a tenant sees of others (nothing), and what the ledger sees of it (each answer once)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.stage import Stage
from tests.harness import wait_for

pytestmark = pytest.mark.timeout(900)

HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def stranger(stage: Stage) -> openai.OpenAI:
    """The client of another tenant, whose key the operator made over HTTP."""
    return stage.openai(stage.new_tenant("stranger"), max_retries=0)


@pytest.fixture(scope="module")
def batch(stage: Stage) -> Any:
    rows = [("1", {"model": stage.tuned, "messages": HELLO, "max_tokens": 2})]
    made = stage.openai().batches.create(
        input_file_id=stage.batch_file(rows), endpoint="/v1/chat/completions", completion_window="24h"
    )
    stage.succeeded(made.id)
    return stage.openai().batches.retrieve(made.id)


def test_a_stranger_finds_every_list_empty(stranger: openai.OpenAI, batch: Any, stage: Stage) -> None:
    assert list(stranger.files.list()) == []
    assert list(stranger.models.list()) == []
    assert list(stranger.batches.list()) == []
    assert list(stranger.fine_tuning.jobs.list()) == []
    for path in ("jobs", "datasets", "webhooks", "usage", "evaluations", "training/jobs", "alerts"):
        assert stage.get(f"/v1/{path}", stranger.api_key)["data"] == [], path


def test_a_stranger_sees_traces_of_its_own_requests_alone(stranger: openai.OpenAI, stage: Stage) -> None:
    own = stranger.models.with_raw_response.list().headers["x-trace-id"]

    def seen() -> set[str]:
        return {t["id"] for t in stage.get("/v1/traces", stranger.api_key, limit=100)["data"]}

    wait_for(lambda: own in seen(), 60, "the spans of a request")
    assert not seen() & {t["id"] for t in stage.get("/v1/traces", limit=100)["data"]}
    assert not seen() & set(stage.traces.values())


def test_a_stranger_can_neither_read_nor_use_nor_end_what_is_anothers(
    stranger: openai.OpenAI, batch: Any, stage: Stage
) -> None:
    jobs = stranger.fine_tuning.jobs
    tries: list[Callable[[], object]] = [
        lambda: stranger.files.retrieve(batch.input_file_id),
        lambda: stranger.files.content(batch.output_file_id),
        lambda: stranger.files.delete(batch.input_file_id),
        lambda: stranger.models.retrieve(stage.tuned),
        lambda: stranger.models.delete(stage.tuned),
        lambda: stranger.chat.completions.create(model=stage.tuned, messages=HELLO),
        lambda: stranger.batches.retrieve(batch.id),
        lambda: stranger.batches.cancel(batch.id),
        lambda: stranger.batches.create(
            input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
        ),
        lambda: jobs.retrieve(stage.tuning),
        lambda: jobs.cancel(stage.tuning),
        lambda: jobs.pause(stage.tuning),
        lambda: jobs.resume(stage.tuning),
        lambda: jobs.list_events(stage.tuning),
        lambda: jobs.checkpoints.list(stage.tuning),
        lambda: jobs.create(model=stage.base, training_file=stage.version),
        lambda: stranger.get(f"/jobs/{stage.tuning}", cast_to=object),
        lambda: stranger.get(f"/jobs/{stage.tuning}/events", cast_to=object),
        lambda: stranger.post(f"/jobs/{stage.tuning}/replay", cast_to=object),
        lambda: stranger.get("/datasets/service", cast_to=object),
        lambda: stranger.get(f"/datasets/service/versions/{stage.version}/rows", cast_to=object),
        lambda: stranger.get(f"/datasets/service/versions/{stage.version}/bad_rows", cast_to=object),
        lambda: stranger.get(f"/traces/{stage.traces['fine_tuning']}", cast_to=object),
    ]
    for attempt in tries:
        with pytest.raises(openai.NotFoundError):
            attempt()
    assert stage.openai().files.retrieve(batch.input_file_id).id == batch.input_file_id
    assert stage.openai().models.retrieve(stage.tuned).id == stage.tuned


def test_a_batch_of_a_stranger_cannot_name_anothers_model(stranger: openai.OpenAI, stage: Stage) -> None:
    line = (
        '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": '
        f'{{"model": "{stage.tuned}", "messages": [{{"role": "user", "content": "x"}}]}}}}'
    )
    file = stranger.files.create(file=("theirs.jsonl", line.encode()), purpose="batch")
    made = stranger.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    wait_for(lambda: stranger.batches.retrieve(made.id).status == "failed", 120, "the batch to fail")
    errors = stranger.batches.retrieve(made.id).errors
    assert errors is not None
    assert [(e.line, e.code) for e in errors.data or []] == [(1, "model_not_found")]


def test_each_answer_leaves_one_row_in_the_ledger(stage: Stage) -> None:
    client = stage.openai()
    plain = client.chat.completions.with_raw_response.create(model=stage.tuned, messages=HELLO, max_tokens=3)
    streamed = client.chat.completions.with_raw_response.create(
        model=stage.tuned, messages=HELLO, max_tokens=5, stream=True
    )
    list(streamed.parse())
    ids = [answer.headers["x-request-id"] for answer in (plain, streamed)]
    wait_for(lambda: all(stage.usage_rows(id_) for id_ in ids), 30, "the ledger")
    rows = [stage.usage_rows(id_) for id_ in ids]
    assert [len(found) for found in rows] == [1, 1]
    assert [found[0]["status"] for found in rows] == ["ok", "ok"]
    usage = plain.parse().usage
    assert usage is not None
    assert (rows[0][0]["prompt_tokens"], rows[0][0]["completion_tokens"]) == (
        usage.prompt_tokens,
        usage.completion_tokens,
    )
    assert [found[0]["trace_id"] for found in rows] == [a.headers["x-trace-id"] for a in (plain, streamed)]


def test_an_answer_that_its_client_gave_up_is_in_the_ledger_as_cancelled(stage: Stage) -> None:
    client = stage.openai()
    with client.chat.completions.with_streaming_response.create(
        model=stage.tuned, messages=HELLO, max_tokens=200, temperature=1, stream=True
    ) as answer:
        request_id = answer.headers["x-request-id"]
        next(answer.iter_lines())
    wait_for(lambda: stage.usage_rows(request_id), 30, "the ledger")
    (row,) = stage.usage_rows(request_id)
    assert row["status"] == "cancelled"


def test_what_no_model_answered_is_not_in_the_ledger(stage: Stage) -> None:
    client = stage.openai()
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="none", messages=HELLO)
    after = client.chat.completions.with_raw_response.create(model=stage.tuned, messages=HELLO, max_tokens=1)
    # The ledger is written in order, so what comes later is there later.
    wait_for(lambda: stage.usage_rows(after.headers["x-request-id"]), 30, "the ledger")
    assert stage.usage_rows(refused.value.response.headers["x-request-id"]) == []


def test_usage_is_summed_by_day_and_model_and_grows_with_each_answer(stage: Stage) -> None:
    def asked() -> tuple[int, int]:
        found = [
            day for day in stage.get("/v1/usage", model=stage.base)["data"] if day["model"] == stage.base
        ]
        return sum(day["requests"] for day in found), sum(day["total_tokens"] for day in found)

    requests, tokens = asked()
    answer = stage.openai().chat.completions.create(model=stage.base, messages=HELLO, max_tokens=4)
    assert answer.usage is not None
    wait_for(lambda: asked()[0] > requests, 30, "the ledger")
    assert asked() == (requests + 1, tokens + answer.usage.total_tokens)


def test_every_answer_has_a_trace_id_whatever_it_is(stage: Stage) -> None:
    with httpx.Client(base_url=stage.url, timeout=30) as open_, stage.http() as http:
        paths = open_.get("/openapi.json").json()["paths"]
        plain = [path for path, verbs in paths.items() if "get" in verbs and "{" not in path]
        assert len(plain) > 10
        answers = [client.get(path) for path in plain for client in (open_, http)]
        answers += [http.get("/nowhere"), http.delete("/v1/models"), http.post("/v1/batches", content=b"{")]
    assert {answer.status_code for answer in answers} >= {200, 400, 401, 403, 404, 405}
    for answer in answers:
        assert len(answer.headers.get("x-trace-id", "")) == 32, answer.url
    assert len({answer.headers["x-trace-id"] for answer in answers}) == len(answers)
