"""Many streams at once on the running platform, and streams whose worker is killed in the middle."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.stage import MOST_LIVE, PATIENCE_S, Stage

pytestmark = pytest.mark.timeout(600)

# More than a worker has at once, so that one is in work whenever it is killed.
CHATS = 16


def stream(
    stage: Stage, number: int, tokens: int, begun: threading.Event | None = None
) -> list[dict[str, Any]]:
    """The events of one streamed chat, without the last mark; fails when that is missing."""
    body = {
        "model": stage.tuned,
        "messages": [{"role": "user", "content": f"order {number}"}],
        "max_tokens": tokens,
        "temperature": 1,
        "seed": number,
        "stream": True,
    }
    with (
        stage.http() as http,
        http.stream("POST", "/v1/chat/completions", json=body, timeout=PATIENCE_S) as answer,
    ):
        lines = []
        for line in filter(None, answer.iter_lines()):
            lines.append(line.removeprefix("data: "))
            if begun is not None:
                begun.set()
    if answer.status_code == 503:  # before its first token: the client may ask again
        return [json.loads("".join(lines))]
    assert answer.status_code == 200, lines
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    assert lines[-1] == "[DONE]" or "error" in events[-1], lines
    return events


def test_two_hundred_streams_at_once_all_end(stage: Stage) -> None:
    with ThreadPoolExecutor(MOST_LIVE) as pool:
        answers = list(pool.map(lambda number: stream(stage, number, 8), range(MOST_LIVE)))
    assert all("error" not in event for events in answers for event in events)
    reasons = {events[-1]["choices"][0]["finish_reason"] for events in answers}
    assert reasons <= {"stop", "length"}


def test_a_stream_whose_engine_is_killed_ends_with_an_answer_or_an_error(stage: Stage) -> None:
    with ThreadPoolExecutor(8) as pool:
        begun = threading.Event()
        asked = [pool.submit(stream, stage, number, 200, begun) for number in range(8)]
        assert begun.wait(PATIENCE_S)
        stage.child_of("inference").kill()
        answers = [future.result(PATIENCE_S) for future in asked]
    for events in answers:
        last = events[-1]
        if "error" in last:
            assert last["error"]["code"]
        else:
            assert last["choices"][0]["finish_reason"] in ("stop", "length")
    # The next one is answered by a new engine.
    assert "error" not in stream(stage, 99, 4)[-1]


def follow(stage: Stage, job_id: str, begun: threading.Event) -> str:
    """What a reader of a background chat puts together, over as many connections as it takes; fails on an error."""
    last, said = "", ""
    path = f"/v1/chat/completions/{job_id}"
    while True:
        headers = {"accept": "text/event-stream", **({"last-event-id": last} if last else {})}
        with stage.http() as http, http.stream("GET", path, headers=headers, timeout=PATIENCE_S) as answer:
            for line in filter(None, answer.iter_lines()):
                if line.startswith("id: "):
                    last = line.removeprefix("id: ")
                elif line == "data: [DONE]":
                    return said
                elif line.startswith("data: "):
                    chunk = json.loads(line.removeprefix("data: "))
                    assert "choices" in chunk, chunk
                    said += chunk["choices"][0]["delta"].get("content") or ""
                    if said:
                        begun.set()


def test_readers_of_background_chats_notice_no_kill_of_their_worker(stage: Stage) -> None:
    jobs = []
    with stage.http() as http:
        for number in range(CHATS):
            body = {
                "model": stage.tuned,
                "messages": [{"role": "user", "content": f"order {number}"}],
                "max_tokens": 200,
                "temperature": 1,
                "background": True,
            }
            answer = http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 202, answer.text
            jobs.append(answer.json()["id"])
    with ThreadPoolExecutor(CHATS) as pool:
        begun = threading.Event()
        read = [pool.submit(follow, stage, job, begun) for job in jobs]
        assert begun.wait(PATIENCE_S)
        stage.running["inference"].kill()
        stage.restart("inference")
        texts = [future.result(PATIENCE_S) for future in read]
    ended = [stage.succeeded(job) for job in jobs]
    assert sum(job["crashes"] for job in ended) >= 1, "the kill came too late"
    for job, text in zip(jobs, texts, strict=True):
        whole = stage.get(f"/v1/chat/completions/{job}")
        assert whole["choices"][0]["message"]["content"] == text
        (row,) = stage.usage_rows(job)
        assert (row["status"], row["completion_tokens"]) == ("ok", whole["usage"]["completion_tokens"])
