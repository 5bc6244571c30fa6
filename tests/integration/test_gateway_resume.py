"""Streams that broke and are taken up again: through another gateway, for whom, how long, and what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI, Stream
from openai.types.chat import ChatCompletionChunk

from tests.integration.gateway_app import PEPPER, RunningGateway, neighbour, running_gateway

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 40) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds} s"
        time.sleep(0.02)
    return found


@contextmanager
def worker(gateway: RunningGateway) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that is ready."""
    settings = gateway.platform.settings
    ready, log = settings.home / "ready", (settings.home / "worker.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.live_echo_worker"],
        cwd=ROOT,
        env={
            **os.environ,
            "HELIU_HOME": str(settings.home),
            "HELIU_DATABASE_URL": settings.database_url,
            "HELIU_REDIS_URL": settings.redis_url,
            "HELIU_READY_FILE": str(ready),
            "HELIU_KEY_PEPPER": PEPPER,
            "HELIU_DRAIN_SECONDS": "1",
        },
        stdout=log,
        stderr=log,
    )
    try:
        wait_until(lambda: ready.exists() or process.poll() is not None, "the worker", seconds=60)
        assert process.poll() is None, (settings.home / "worker.log").read_text()[-3000:]
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()


def body(text: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "echo", "messages": messages, "stream": True, "resumable": True, **more}


def events(response: httpx.Response, count: int | None = None) -> list[tuple[str, Any]]:
    """(id, data) of the next events of a stream, or of all of them."""
    found: list[tuple[str, Any]] = []
    name = ""
    for line in response.iter_lines():
        if line.startswith("id: "):
            name = line.removeprefix("id: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
            found.append((name, data if data == "[DONE]" else json.loads(data)))
            name = ""
        if len(found) == count:
            break
    return found


def text(found: list[tuple[str, Any]]) -> str:
    chunks = [data for _, data in found if data != "[DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def begin(http: httpx.Client, said: str, count: int) -> tuple[str, list[tuple[str, Any]]]:
    """(where it is taken up, the first events) of a stream whose client leaves after these."""
    with http.stream("POST", CHAT, json=body(said)) as response:
        return response.headers["content-location"], events(response, count)


def usage(gateway: RunningGateway) -> list[dict[str, Any]]:
    with gateway.as_tenant() as c:
        return c.execute("SELECT * FROM gateway.usage ORDER BY id").fetchall()


def test_a_broken_stream_is_taken_up_at_another_gateway_by_its_own_tenant(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with (
        running_gateway(database_url, redis_url, tmp_path) as gateway,
        neighbour(gateway) as url,
        worker(gateway),
    ):
        gateway.add_model("echo")
        http = gateway.http()
        path, had = begin(http, "pause 3 and the rest", 3)
        assert path.startswith(f"{CHAT}/chatcmpl-")
        assert text(had) == "pause 3"
        assert all(name for name, _ in had)

        other = gateway.http("rival", **{"last-event-id": had[-1][0]})
        assert other.get(path).status_code == 404
        wrong = http.get(path, headers={"last-event-id": "seven"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "Last-Event-ID")
        unlike = http.get(path, headers={"last-event-id": "2-0123456789abcdef"})
        assert (unlike.status_code, unlike.json()["error"]["code"]) == (410, "answer_restarted")

        (tmp_path / "go").touch()
        elsewhere = OpenAI(base_url=f"{url}/v1", api_key=gateway.keys["acme"])
        rest: Any = elsewhere.get(
            path.removeprefix("/v1"),
            cast_to=ChatCompletionChunk,
            options={"headers": {"Last-Event-ID": had[-1][0]}},
            stream=True,
            stream_cls=Stream[ChatCompletionChunk],
        )
        chunks = list(rest)
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == " and the rest"
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert {chunk.id for chunk in chunks} == {had[0][1]["id"]} == {path.rsplit("/", 1)[1]}

        # Again, and all of it: it is kept for a while.
        with http.stream("GET", path) as response:
            whole = events(response)
        assert whole[:3] == had
        assert text(whole) == "pause 3 and the rest"
        assert whole[-1] == ("", "[DONE]")
        (row,) = wait_until(lambda: usage(gateway), "the usage row")
        assert (row["status"], row["completion_tokens"], row["prompt_tokens"]) == ("ok", 5, 7)


def test_a_stream_outlives_its_gateway_and_is_charged_once(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with running_gateway(database_url, redis_url, tmp_path) as gateway, worker(gateway):
        gateway.add_model("echo")
        with neighbour(gateway) as url, gateway.http(key="acme") as http:
            http.base_url = url
            path, had = begin(http, "pause 3 and the rest", 3)
        # That one has stopped; what it had counted by then is in the ledger.
        (before,) = usage(gateway)
        assert before["status"] == "cancelled"
        (tmp_path / "go").touch()
        with gateway.http().stream("GET", path, headers={"last-event-id": had[-1][0]}) as response:
            assert text(events(response)) == " and the rest"
        wait_until(lambda: usage(gateway)[0]["status"] == "ok", "the whole usage")
        (row,) = usage(gateway)
        assert (row["request_id"], row["completion_tokens"]) == (before["request_id"], 5)


def test_who_does_not_come_back_in_time_frees_the_worker_and_finds_nothing(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with (
        running_gateway(database_url, redis_url, tmp_path, resume_seconds=1.5) as gateway,
        worker(gateway),
    ):
        gateway.add_model("echo")
        http = gateway.http()
        with http.stream("POST", CHAT, json=body("endless")) as response:
            path = response.headers["content-location"]
            # Whoever stays is waited for, beyond the time for those who have gone.
            until = time.monotonic() + 2.0
            for line in response.iter_lines():
                assert "error" not in line
                if time.monotonic() > until:
                    break
        wait_until((tmp_path / "cancelled").exists, "the cancelling")
        (row,) = wait_until(lambda: usage(gateway), "the usage row")
        assert row["status"] == "cancelled"
        late = http.get(path)
        assert (late.status_code, late.json()["error"]["code"]) in ((410, "stream_gone"), (404, "not_found"))
        forgotten = wait_until(lambda: (r := http.get(path)).status_code == 404 and r, "the forgetting")
        assert "1.5 s" in forgotten.json()["error"]["message"]


def test_a_stream_whose_worker_is_killed_says_so_to_who_takes_it_up(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with (
        running_gateway(database_url, redis_url, tmp_path, live_silence_seconds=1.0) as gateway,
        worker(gateway) as process,
    ):
        gateway.add_model("echo")
        http = gateway.http()
        path, had = begin(http, "pause 3 and the rest", 3)
        process.kill()
        with http.stream("GET", path, headers={"last-event-id": had[-1][0]}) as response:
            told = json.loads(response.read()) if response.status_code != 200 else events(response)[-1][1]
        assert told["error"]["code"] == "worker_lost"
        wait_until(lambda: [row["status"] for row in usage(gateway)] == ["error"], "the usage row")


def test_a_stream_that_was_not_asked_to_be_resumable_has_no_ids_and_no_place(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with running_gateway(database_url, redis_url, tmp_path) as gateway, worker(gateway):
        gateway.add_model("echo")
        http = gateway.http()
        with http.stream("POST", CHAT, json=body("one two", resumable=False)) as response:
            assert "content-location" not in response.headers
            found = events(response)
        assert {name for name, _ in found} == {""}
        assert http.get(f"{CHAT}/{found[0][1]['id']}").status_code == 404
        refused = http.post(CHAT, json=body("one", stream=False))
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "resumable")
