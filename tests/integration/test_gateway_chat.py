"""The live trip through a real gateway, a real queue and a real worker process, with the openai client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from services.gateway.answering.answers import Answer
from shared.telemetry import Span
from tests.integration.gateway_app import PEPPER, RunningGateway, running_gateway

ROOT = Path(__file__).parents[2]


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds} s"
        time.sleep(0.02)
    return found


@pytest.fixture
def gateway(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(database_url, redis_url, tmp_path) as running:
        running.add_model("echo")
        running.add_model("secret", tenant="rival")
        yield running


@pytest.fixture
def worker(gateway: RunningGateway, database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Path]:
    """A worker that is ready; the value is its HELIU_HOME."""
    ready = tmp_path / "ready"
    settings = {
        "HELIU_HOME": str(tmp_path),
        "HELIU_DATABASE_URL": database_url,
        "HELIU_REDIS_URL": redis_url,
        "HELIU_READY_FILE": str(ready),
        "HELIU_KEY_PEPPER": PEPPER,
        "HELIU_DRAIN_SECONDS": "1",
    }
    log = (tmp_path / "worker.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.live_echo_worker"],
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=log,
        stderr=log,
    )
    try:
        wait_until(lambda: ready.exists() or process.poll() is not None, "the worker", seconds=60)
        assert process.poll() is None, (tmp_path / "worker.log").read_text()[-3000:]
        yield tmp_path
    finally:
        process.kill()
        process.wait()
        log.close()


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def usage_rows(gateway: RunningGateway) -> list[dict[str, Any]]:
    with gateway.as_tenant() as c:
        return c.execute("SELECT * FROM gateway.usage ORDER BY id").fetchall()


@pytest.mark.usefixtures("worker")
def test_a_plain_answer_has_openais_shape_and_leaves_one_usage_row(gateway: RunningGateway) -> None:
    raw = gateway.openai().chat.completions.with_raw_response.create(model="echo", messages=say("你好 world"))
    answer = raw.parse()
    assert answer.choices[0].message.content == "你好 world"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 2)  # type: ignore[union-attr]
    row = wait_until(lambda: usage_rows(gateway), "the usage row")[0]
    assert (row["model"], row["status"], row["prompt_tokens"]) == ("echo", "ok", 7)
    assert row["trace_id"] == raw.headers["x-trace-id"]
    assert row["request_id"] == raw.headers["x-request-id"]
    day = gateway.http().get("/v1/usage").json()["data"][0]
    assert (day["model"], day["total_tokens"], day["errors"]) == ("echo", 9, 0)


@pytest.mark.usefixtures("worker")
def test_a_stream_opens_with_the_role_and_closes_with_reason_usage_and_done(gateway: RunningGateway) -> None:
    body = {
        "model": "echo",
        "messages": say("one two three"),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with gateway.http().stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert len(response.headers["x-trace-id"]) == 32
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks[:-1]) == "one two three"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert all(c["usage"] is None for c in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 10


@pytest.mark.usefixtures("worker")
def test_the_openai_client_reads_a_stream_and_content_given_in_parts(gateway: RunningGateway) -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    stream = gateway.openai().chat.completions.create(
        model="echo",
        messages=[{"role": "user", "content": parts}],  # type: ignore[list-item,misc]
        stream=True,
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "a b"


@pytest.mark.usefixtures("worker")
def test_an_answer_can_be_sent_back_as_it_came(gateway: RunningGateway) -> None:
    client = gateway.openai()
    first = client.chat.completions.create(model="echo", messages=say("one")).choices[0].message  # type: ignore[arg-type]
    for sent in (first, first.model_dump()):
        answer = client.chat.completions.create(model="echo", messages=[*say("one"), sent, *say("two")])  # type: ignore[list-item]
        assert answer.choices[0].message.content == "two"


@pytest.mark.usefixtures("worker")
def test_an_error_before_the_first_token_has_its_status_in_a_stream_too(gateway: RunningGateway) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            gateway.openai().chat.completions.create(
                model="echo", messages=say("fail context_length_exceeded"), stream=stream
            )
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == "messages"
    rows = wait_until(lambda: len(usage_rows(gateway)) == 2 and usage_rows(gateway), "the usage rows")
    assert [row["status"] for row in rows] == ["error", "error"]


@pytest.mark.usefixtures("worker")
def test_an_error_in_the_middle_of_a_stream_is_told_as_an_error(gateway: RunningGateway) -> None:
    stream = gateway.openai().chat.completions.create(model="echo", messages=say("break 2 x"), stream=True)
    seen = [next(stream).choices[0].delta.content for _ in range(3)]
    with pytest.raises(openai.APIError, match="the engine fell over") as caught:
        next(stream)
    assert "".join(seen) == "break 2"
    assert caught.value.code == "engine_failed"
    assert isinstance(caught.value.body, dict)
    assert len(caught.value.body["trace_id"]) == 32


def test_a_client_that_goes_away_cancels_the_work_of_a_stream(gateway: RunningGateway, worker: Path) -> None:
    stream = gateway.openai().chat.completions.create(model="echo", messages=say("endless"), stream=True)
    next(iter(stream))
    stream.close()
    wait_until((worker / "cancelled").exists, "the cancelling")
    row = wait_until(lambda: usage_rows(gateway), "the usage row")[0]
    assert row["status"] == "cancelled"


def test_a_client_that_goes_away_cancels_a_plain_answer_too(gateway: RunningGateway, worker: Path) -> None:
    with pytest.raises(openai.APITimeoutError):
        gateway.openai(max_retries=0).with_options(timeout=1).chat.completions.create(
            model="echo", messages=say("endless")
        )
    wait_until((worker / "cancelled").exists, "the cancelling")
    assert wait_until(lambda: usage_rows(gateway), "the usage row")[0]["status"] == "cancelled"


@pytest.mark.usefixtures("worker")
def test_a_tenants_cap_of_live_requests_answers_429(gateway: RunningGateway) -> None:
    with gateway.platform.db.core() as c:
        c.execute("UPDATE core.tenant SET max_live = 1 WHERE name = 'acme'")
    client = gateway.openai(max_retries=0)
    stream = client.chat.completions.create(model="echo", messages=say("endless"), stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="echo", messages=say("hello"))
    assert caught.value.code == "concurrency_limit_exceeded"
    stream.close()


@pytest.mark.usefixtures("worker")
def test_a_used_up_quota_of_tokens_answers_429_and_asks_for_no_retry(gateway: RunningGateway) -> None:
    made = gateway.http("operator").post(
        "/v1/keys", json={"name": "small", "tenant": "acme", "tokens_per_day": 5}
    )
    gateway.keys["small"] = made.json()["key"]
    client = gateway.openai("small", max_retries=0)
    client.chat.completions.create(model="echo", messages=say("hello"))
    wait_until(lambda: usage_rows(gateway), "the usage row")
    raw = gateway.http("small").post("/v1/chat/completions", json={"model": "echo", "messages": say("hi")})
    assert raw.status_code == 429
    assert raw.json()["error"]["code"] == "insufficient_quota"
    assert raw.headers["x-should-retry"] == "false"


def test_without_a_worker_the_answer_is_a_503_that_says_what_to_do(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with running_gateway(database_url, redis_url, tmp_path, live_deadline_seconds=0.5) as gateway:
        gateway.add_model("echo")
        with pytest.raises(openai.InternalServerError) as caught:
            gateway.openai().chat.completions.create(model="echo", messages=say("hello"))
        assert (caught.value.status_code, caught.value.code) == (503, "no_worker")


def test_an_unknown_model_and_another_tenants_are_not_found_alike(gateway: RunningGateway) -> None:
    for name in ("ecko", "secret"):
        with pytest.raises(openai.NotFoundError) as caught:
            gateway.openai().chat.completions.create(model=name, messages=say("hello"))
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        assert name in caught.value.message
    assert usage_rows(gateway) == []


@pytest.mark.usefixtures("worker")
def test_the_events_of_a_job_stream_until_it_ends_and_resume_where_they_broke_off(
    gateway: RunningGateway,
) -> None:
    http = gateway.http()
    job = http.post("/v1/jobs", json={"kind": "noop", "steps": 3}).json()
    with http.stream(
        "GET", f"/v1/jobs/{job['id']}/events", headers={"accept": "text/event-stream"}
    ) as response:
        lines = list(response.iter_lines())
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names == ["job_queued", "job_started", "step", "step", "step", "job_succeeded"]
    ids = [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]
    again = http.get(
        f"/v1/jobs/{job['id']}/events", params={"stream": "true"}, headers={"last-event-id": ids[-2]}
    )
    assert again.text.count("event: ") == 1
    assert "job_succeeded" in again.text
    assert http.get(f"/v1/jobs/{job['id']}").json()["result"] == {"steps": 3}


@pytest.mark.usefixtures("worker")
def test_a_stream_that_fails_unforeseen_is_a_failed_span(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    fail = Span.fail
    monkeypatch.setattr(Span, "fail", lambda span, why: (said.append(why), fail(span, why))[1])
    monkeypatch.setattr(Answer, "done", lambda *_: {}["finish_reason"])
    with pytest.raises(openai.APIError, match="something failed inside"):
        list(gateway.openai().chat.completions.create(model="echo", messages=say("hello"), stream=True))
    assert said == ["KeyError"]
