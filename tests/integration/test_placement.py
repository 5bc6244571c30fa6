"""Who serves what: requests go where a worker may take them, wait where none may and say so, and move when one dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from services.dispatcher.repository import slots_by_queue
from services.gateway.answering.placement import Placement
from shared import streams
from shared.errors import Unavailable
from tests.harness import ROOT, wait_for
from tests.integration.gateway_app import PEPPER, RunningGateway, running_gateway

AGE = "UPDATE core.worker SET heartbeat_at = now() - interval '1 minute' WHERE pid = %s"
SAY = {"messages": [{"role": "user", "content": "hello there"}]}


class Workers:
    """Starts echo workers; one says which it is by what `GET /v1/workers` tells of its queues."""

    def __init__(self, gateway: RunningGateway, folder: Path) -> None:
        settings = gateway.platform.settings
        self._folder = folder
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HELIU_")},
            "HELIU_HOME": str(settings.home),
            "HELIU_DATABASE_URL": settings.database_url,
            "HELIU_REDIS_URL": settings.redis_url,
            "HELIU_KEY_PEPPER": PEPPER,
            "HELIU_DRAIN_SECONDS": "1",
        }
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, models: str = "", *, wait: bool = True) -> subprocess.Popen[bytes]:
        index = str(len(self.running))
        ready = self._folder / f"ready-{index}"
        with (self._folder / f"worker-{index}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.live_echo_worker"],
                cwd=ROOT,
                env={
                    **self._environ,
                    "HELIU_MODELS": models,
                    "HELIU_WORKER_INDEX": index,
                    "HELIU_READY_FILE": str(ready),
                },
                stdout=log,
                stderr=log,
            )
        self.running.append(process)
        if wait:
            wait_for(ready.exists, 60, f"worker {index}")
        return process

    def close(self) -> None:
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait(30)


@contextmanager
def stage(
    database_url: str, redis_url: str, folder: Path, **settings: Any
) -> Iterator[tuple[RunningGateway, Workers]]:
    with running_gateway(database_url, redis_url, folder / "home", **settings) as gateway:
        for name in ("qwen", "llama"):
            gateway.add_model(name)
        gateway.add_model("qwen-tuned", kind="adapter", base_id="qwen", base_artifact="sha256:" + "a" * 64)
        workers = Workers(gateway, folder)
        try:
            yield gateway, workers
        finally:
            workers.close()


def test_a_worker_takes_requests_for_the_bases_that_it_names_and_no_others(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with stage(database_url, redis_url, tmp_path, live_deadline_seconds=3) as (gateway, workers):
        workers.start("qwen, other")
        client = gateway.openai(max_retries=0)
        for name in ("qwen", "qwen-tuned"):
            answer = client.chat.completions.create(model=name, **SAY)  # type: ignore[call-overload]
            assert answer.choices[0].message.content == "hello there"
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="llama", **SAY)  # type: ignore[call-overload]
        assert (caught.value.status_code, caught.value.code) == (503, "no_worker")
        assert "no living worker serves the model 'llama'" in caught.value.message
        assert "HELIU_MODELS is empty or names 'llama'" in caught.value.message
        assert caught.value.response.headers["x-should-retry"] == "false"
        with gateway.http("operator") as http:
            (worker,) = http.get("/v1/workers").json()["data"]
            assert [q for q in worker["queues"] if q.endswith(".live")] == [
                "inference.default.qwen.live",
                "inference.default.other.live",
            ]
            scaling = http.get("/scaling/inference.default").json()
            assert "inference.default.qwen.live" in scaling["queues"]


def test_each_queue_has_only_its_own_of_a_workers_slots(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with stage(database_url, redis_url, tmp_path) as (gateway, workers):
        workers.start("qwen, other")
        with gateway.platform.db.core() as connection:
            assert slots_by_queue(connection)["monitoring"] == 2
        with gateway.http("operator") as http:
            live = http.get("/scaling/inference.default").json()
            jobs = http.get("/scaling/monitoring").json()
    # Of both bases together there are four: they share the live slots.
    assert [(one["workers"], one["slots"], one["busy_slots"]) for one in (live, jobs)] == [
        (1, 4, 0),
        (1, 2, 0),
    ]


def test_a_request_waits_for_a_worker_that_may_serve_it_and_says_so(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with stage(database_url, redis_url, tmp_path, live_deadline_seconds=60) as (gateway, workers):
        workers.start("qwen")
        said: list[str] = []
        waits = threading.Event()

        def streamed() -> list[str]:
            body = {"model": "llama", "stream": True, **SAY}
            with (
                gateway.http() as http,
                http.stream("POST", "/v1/chat/completions", json=body, timeout=90) as r,
            ):
                assert r.status_code == 200
                for line in r.iter_lines():
                    said.append(line)
                    if line.startswith(":"):
                        waits.set()
            return said

        def plain() -> httpx.Response:
            with gateway.http() as http:
                return http.post("/v1/chat/completions", json={"model": "llama", **SAY}, timeout=90)

        with ThreadPoolExecutor(2) as pool:
            stream, whole = pool.submit(streamed), pool.submit(plain)
            assert waits.wait(30)
            workers.start("llama")
            lines, answer = stream.result(60), whole.result(60)
    comments = [line for line in lines if line.startswith(":")]
    assert "no living worker serves the model 'llama' yet" in comments[0]
    assert lines[-2:] == ["data: [DONE]", ""]
    assert answer.json()["choices"][0]["message"]["content"] == "hello there"
    assert "no living worker serves the model 'llama' yet" in answer.headers["x-heliu-waited"]


def test_a_stream_that_waited_in_vain_ends_with_the_reason(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with stage(database_url, redis_url, tmp_path, live_deadline_seconds=2) as (gateway, _):
        stream = gateway.openai(max_retries=0).chat.completions.create(  # type: ignore[call-overload]
            model="qwen-tuned", stream=True, **SAY
        )
        with pytest.raises(openai.APIError) as caught:
            list(stream)
        assert caught.value.code == "no_worker"
        assert "the model 'qwen-tuned' (base 'qwen')" in caught.value.message


def test_what_waits_for_a_worker_that_died_goes_to_one_that_serves_any(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with stage(database_url, redis_url, tmp_path, live_deadline_seconds=90) as (gateway, workers):
        dedicated = workers.start("qwen")
        client = gateway.openai(max_retries=0)
        assert client.chat.completions.create(model="qwen", **SAY).choices  # type: ignore[call-overload]
        dedicated.kill()
        dedicated.wait()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.chat.completions.create, model="qwen", **SAY)
            waiting = partial(backlog, redis_url, "inference.default.qwen.live")
            wait_for(waiting, 30, "the request to wait for the worker that died")
            workers.start()
            # Its heartbeat runs out.
            with gateway.platform.db.core() as c:
                c.execute(AGE, (dedicated.pid,))
            assert asked.result(60).choices[0].message.content == "hello there"


def backlog(redis_url: str, queue: str) -> int:
    client = streams.connect(redis_url)
    try:
        return streams.backlog(client, queue)
    finally:
        client.close()


class Shelf:
    """A database that is there or not."""

    def __init__(self) -> None:
        self.living: list[str] | None = ["a"]
        self.asked = 0

    @contextmanager
    def core(self) -> Iterator[Any]:
        self.asked += 1
        if self.living is None:
            raise Unavailable("away", code="database_unavailable")
        yield self

    def execute(self, _: str) -> Shelf:
        return self

    def fetchall(self) -> list[dict[str, str]]:
        return [{"queue": queue} for queue in self.living or ()]


def test_who_was_there_a_moment_ago_is_still_known_while_postgres_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelf = Shelf()
    placement = Placement(shelf)  # type: ignore[arg-type]
    assert placement.serving(["b", "a"]) == "a"
    assert placement.serving(["a"]) == "a"
    assert shelf.asked == 1
    monkeypatch.setattr("services.gateway.answering.placement.FRESH_S", 0.0)
    monkeypatch.setattr("services.gateway.answering.placement.AGAIN_S", 0.0)
    shelf.living = None
    assert placement.serving(["a"]) == "a"
    shelf.living = ["b"]
    assert placement.serving(["b", "a"]) == "b"
    assert placement.serving(["a"]) is None
    shelf.living = None
    with pytest.raises(Unavailable):
        Placement(shelf).serving(["a"])  # type: ignore[arg-type]
