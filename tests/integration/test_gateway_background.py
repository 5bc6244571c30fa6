"""Chats in the background: accepted, run by a real worker, fetched and streamed, killed, cancelled, charged once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import redis
from openai import OpenAI, Stream
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from typer.testing import CliRunner

from services.cli.main import app
from shared import job_store, streams
from tests import servers
from tests.conftest import TEMPLATE
from tests.integration.gateway_app import PEPPER, RunningGateway, neighbour, running_gateway

ROOT = Path(__file__).parents[2]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ENDED = ("succeeded", "failed", "dead", "cancelled", "expired")


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 40) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds} s"
        time.sleep(0.02)
    return found


class World:
    """A gateway, its neighbour, and one worker that may be killed and started again under its name."""

    def __init__(self, gateway: RunningGateway, beside: str) -> None:
        self.gateway = gateway
        self.beside = beside
        self.home = gateway.platform.settings.home
        self._worker: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        settings, ready = self.gateway.platform.settings, self.home / "ready"
        ready.unlink(missing_ok=True)
        given = {
            "HELIU_HOME": str(self.home),
            "HELIU_DATABASE_URL": settings.database_url,
            "HELIU_REDIS_URL": settings.redis_url,
            "HELIU_READY_FILE": str(ready),
            "HELIU_KEY_PEPPER": PEPPER,
            "HELIU_DRAIN_SECONDS": "1",
            "HELIU_SLOTS": "1",
        }
        with (self.home / "worker.log").open("ab") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.chat_worker"],
                cwd=ROOT,
                env={**os.environ, **given},
                stdout=log,
                stderr=log,
            )
        worker = self._worker
        wait_until(lambda: ready.exists() or worker.poll() is not None, "the worker")
        assert worker.poll() is None, (self.home / "worker.log").read_text()[-3000:]

    def kill(self) -> None:
        assert self._worker is not None
        self._worker.kill()
        self._worker.wait()

    def go(self) -> None:
        (self.home / "go").touch()

    def submit(
        self, said: str, endpoint: str = CHAT, headers: dict[str, str] | None = None, **more: Any
    ) -> Any:
        """The job."""
        answer = self.gateway.http().post(endpoint, json=body(said, endpoint, **more), headers=headers)
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"{endpoint}/{answer.json()['id']}"
        return answer.json()

    def ended(self, job_id: str) -> Any:
        def look() -> Any:
            job = self.gateway.http().get(f"/v1/jobs/{job_id}").json()
            return job if job["status"] in ENDED else None

        return wait_until(look, job_id)

    def usage(self, job_id: str) -> list[dict[str, Any]]:
        with self.gateway.as_tenant() as c:
            return c.execute("SELECT * FROM gateway.usage WHERE job_id = %s", (job_id,)).fetchall()


def body(said: str, endpoint: str = CHAT, **more: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": said}]} if endpoint == CHAT else {"prompt": said}
    return {"model": "echo", **asked, "background": True, **more}


@pytest.fixture(scope="module")
def module_world(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    url = servers.new_database(postgres.url, "background", template=TEMPLATE)
    home = tmp_path_factory.mktemp("background")
    with running_gateway(url, valkey.url, home) as gateway, neighbour(gateway) as beside:
        (home / "model").mkdir()
        (home / "model" / "config.json").write_text("{}")
        gateway.add_model("echo", artifact=gateway.platform.artifacts.put_tree(home / "model"))
        world = World(gateway, beside)
        try:
            yield world
        finally:
            world.kill()
    servers.drop_database(postgres.url, "background")


@pytest.fixture
def world(module_world: World) -> World:
    (module_world.home / "go").unlink(missing_ok=True)
    return module_world


class Reading:
    """A stream that is read on a thread of its own, by the tenant's key, at one of the gateways."""

    def __init__(self, url: str, key: str, path: str, last: str = "") -> None:
        self.events: list[tuple[str, Any]] = []
        self.status = 0
        self._pool = ThreadPoolExecutor(1)
        headers = {"authorization": f"Bearer {key}", "accept": "text/event-stream"}
        self._read = self._pool.submit(
            self._run, url + path, headers | ({"last-event-id": last} if last else {})
        )

    def _run(self, url: str, headers: dict[str, str]) -> None:
        name = ""
        with httpx.stream("GET", url, headers=headers, timeout=60) as response:
            self.status = response.status_code
            for line in response.iter_lines():
                if line.startswith("id: "):
                    name = line.removeprefix("id: ")
                elif line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    self.events.append((name, data if data == "[DONE]" else json.loads(data)))
                elif line.startswith("{"):
                    self.events.append(("", json.loads(line)))

    def has(self, text: str) -> None:
        wait_until(lambda: self.text == text, repr(text))

    def end(self) -> list[tuple[str, Any]]:
        self._read.result(60)
        self._pool.shutdown()
        return self.events

    @property
    def text(self) -> str:
        chunks = [data for _, data in list(self.events) if "choices" in data]
        return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])


def read(world: World, job_id: str, last: str = "", key: str = "acme", *, beside: bool = False) -> Reading:
    url = world.beside if beside else world.gateway.url
    return Reading(url, world.gateway.keys[key], f"{CHAT}/{job_id}", last)


def test_the_openai_client_submits_fetches_and_streams_a_chat(world: World) -> None:
    client = world.gateway.openai()
    job: Any = client.chat.completions.create(
        model="echo",
        messages=[{"role": "user", "content": "你好 world"}],
        metadata={"team": "service"},
        extra_body={"background": True, "priority": 3},
    )
    assert job.id.startswith("chatjob-")
    assert (job.object, job.kind, job.priority) == ("job", "inference.chat", 3)
    assert job.status in ("queued", "leased", "succeeded")
    ended = world.ended(job.id)
    assert (ended["status"], ended["metadata"]) == ("succeeded", {"team": "service"})
    assert ended["result"]["location"] == f"{CHAT}/{job.id}"
    answer = client.get(f"/chat/completions/{job.id}", cast_to=ChatCompletion)
    assert answer.choices[0].message.content == "你好 world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 2)
    assert answer.id == ended["result"]["answer"]
    assert set(answer.model_dump()) >= {"id", "object", "created", "model", "choices", "usage"}
    # By the name that the answer itself has, at the other gateway, as a stream.
    elsewhere = OpenAI(base_url=f"{world.beside}/v1", api_key=world.gateway.keys["acme"])
    streamed: Any = elsewhere.get(
        f"/chat/completions/{answer.id}",
        cast_to=ChatCompletionChunk,
        options={"params": {"stream": "true", "include_usage": "true"}},
        stream=True,
        stream_cls=Stream[ChatCompletionChunk],
    )
    chunks = list(streamed)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "你好 world"
    assert {chunk.id for chunk in chunks} == {answer.id}
    assert chunks[-1].usage == answer.usage
    (row,) = world.usage(job.id)
    assert (row["status"], row["model"], row["completion_tokens"]) == ("ok", "echo", 2)
    assert row["trace_id"] == ended["trace_id"]
    assert (row["endpoint"], row["request_id"]) == (CHAT, job.id)
    listed = client.get("/jobs?kind=inference.chat&metadata[team]=service", cast_to=object)
    assert [one["id"] for one in listed["data"]] == [job.id]  # type: ignore[index]


def test_a_background_stream_is_there_at_once_and_may_be_left_and_read_again(world: World) -> None:
    client = world.gateway.openai()
    stream = client.chat.completions.create(
        model="echo",
        messages=[{"role": "user", "content": "pause 3 and the rest"}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"background": True},
    )
    job_id = stream.response.headers["x-heliu-job"]
    assert stream.response.headers["content-location"] == f"{CHAT}/{job_id}"
    had = [next(stream).choices[0].delta.content for _ in range(3)]
    stream.close()
    assert "".join(text or "" for text in had).startswith("pause")
    beside = read(world, job_id, beside=True)
    beside.has("pause 3 and")
    place = beside.events[-2][0]
    world.go()
    events = beside.end()
    assert beside.text == "pause 3 and the rest"
    assert events[-1][1] == "[DONE]"
    # The request's own include_usage goes for every reader of it.
    assert events[-2][1]["usage"]["completion_tokens"] == 5
    rest = read(world, job_id, place)
    assert rest.end() == events[[name for name, _ in events].index(place) + 1 :]
    assert len(world.usage(job_id)) == 1


def test_another_tenant_finds_neither_answer_nor_stream_nor_job(world: World) -> None:
    job = world.submit("secret")
    answer = world.ended(job["id"])["result"]["answer"]
    http = world.gateway.http("rival")
    for path in (f"{CHAT}/{job['id']}", f"{CHAT}/{answer}", f"/v1/jobs/{job['id']}"):
        for query in ({}, {"stream": "true"}):
            assert http.get(path, params=query).status_code == 404
    assert http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 404
    # Nor under the other endpoint.
    assert world.gateway.http().get(f"{TEXT}/{job['id']}").status_code == 404


def test_a_worker_killed_in_mid_answer_doubles_and_loses_nothing_for_its_readers(world: World) -> None:
    job_id = world.submit("pause 3 and the rest", temperature=1)["id"]
    attached = read(world, job_id, beside=True)
    attached.has("pause 3 and")
    place = attached.events[-1][0]
    world.kill()
    world.start()
    world.go()
    events = attached.end()
    assert attached.text == "pause 3 and the rest"
    assert events[-1][1] == "[DONE]"
    ids = [name for name, _ in events[:-1]]
    assert len(set(ids)) == len(ids)
    later = read(world, job_id, place)
    later.end()
    assert later.text == " the rest"
    job = world.ended(job_id)
    assert (job["status"], job["crashes"]) == ("succeeded", 1)
    (row,) = world.usage(job_id)
    assert row["completion_tokens"] == 5


def test_an_answer_that_comes_out_otherwise_after_a_crash_is_never_mixed(world: World) -> None:
    job_id = world.submit("differ x y")["id"]
    attached = read(world, job_id)
    wait_until(lambda: attached.text.count(" ") == 1, "two words")
    place = attached.events[-1][0]
    world.kill()
    world.start()
    world.go()
    told = attached.end()[-1][1]
    assert told["error"]["code"] == "answer_restarted"
    whole = read(world, job_id)
    whole.end()
    content = world.gateway.http().get(f"{CHAT}/{job_id}").json()["choices"][0]["message"]["content"]
    assert whole.text == content
    behind = read(world, job_id, place)
    assert (behind.end()[-1][1]["error"]["code"], behind.status) == ("answer_restarted", 410)


def test_a_redis_that_forgets_only_delays_what_a_reader_gets(world: World) -> None:
    job_id = world.submit("pause 3 and the rest of it")["id"]
    attached = read(world, job_id)
    attached.has("pause 3 and")
    with redis.Redis.from_url(world.gateway.platform.settings.redis_url) as client:
        assert client.delete(streams.kept_stream(job_id)) == 1
    world.go()
    attached.end()
    assert attached.text == "pause 3 and the rest of it"


def test_a_cancelled_chat_frees_its_worker_and_is_charged_for_what_was_made(world: World) -> None:
    job_id = world.submit("pause 2 never more")["id"]
    attached = read(world, job_id)
    attached.has("pause 2")
    assert world.gateway.http().get(f"{CHAT}/{job_id}").status_code == 202
    world.gateway.http().post(f"/v1/jobs/{job_id}/cancel")
    assert attached.end()[-1][1]["error"]["code"] == "answer_cancelled"
    assert world.ended(job_id)["status"] == "cancelled"
    gone = world.gateway.http().get(f"{CHAT}/{job_id}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "answer_cancelled")
    (row,) = world.usage(job_id)
    assert (row["status"], row["completion_tokens"]) == ("cancelled", 2)
    # The one slot of the worker is free again.
    assert world.ended(world.submit("next")["id"])["status"] == "succeeded"


def test_a_chat_that_nobody_began_in_time_expires(world: World) -> None:
    first = world.submit("pause 1 first")["id"]
    late = world.submit("late", expires_after={"anchor": "created_at", "seconds": 1})["id"]

    def expired() -> bool:
        with world.gateway.platform.db.core() as c:
            job_store.expire_overdue(c)
        return bool(world.gateway.http().get(f"/v1/jobs/{late}").json()["status"] == "expired")

    wait_until(expired, "the expiry")
    gone = world.gateway.http().get(f"{CHAT}/{late}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "answer_expired")
    assert world.usage(late) == []
    world.go()
    assert world.ended(first)["status"] == "succeeded"


def test_priority_orders_a_tenants_chats_and_decides_how_they_are_computed(world: World) -> None:
    # The worker has one slot, which the first takes.
    first = world.submit("pause 1 first")["id"]
    wait_until(
        lambda: world.gateway.http().get(f"/v1/jobs/{first}").json()["status"] == "leased", "the start"
    )
    low, high = world.submit("priority", priority=-5)["id"], world.submit("priority", priority=5)["id"]
    assert world.gateway.http().get(f"/v1/jobs/{low}").json()["position"] == 1
    world.go()
    ended = {name: world.ended(job_id) for name, job_id in (("low", low), ("high", high))}
    with world.gateway.platform.db.core() as c:
        rows = c.execute(
            "SELECT job_id FROM core.job_event WHERE type = 'job_started' AND job_id = ANY(%s) ORDER BY id",
            ([low, high],),
        ).fetchall()
    assert [row["job_id"] for row in rows] == [high, low]
    said = {
        name: world.gateway.http().get(job["result"]["location"]).json()["choices"][0]["message"]["content"]
        for name, job in ended.items()
    }
    assert said == {"low": "batch", "high": "live"}


def test_the_same_idempotency_key_is_the_same_job_and_another_body_is_refused(world: World) -> None:
    key = {"idempotency-key": "once"}
    first = world.submit("hello", headers=key)
    assert world.submit("hello", headers=key)["id"] == first["id"]
    other = world.gateway.http().post(CHAT, json=body("bye"), headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert world.ended(first["id"])["status"] == "succeeded"
    assert len(world.usage(first["id"])) == 1


def test_what_the_engine_refuses_fails_as_it_would_live(world: World) -> None:
    job = world.ended(world.submit("fail context_length_exceeded")["id"])
    assert (job["status"], job["error"]["code"]) == ("failed", "context_length_exceeded")
    with pytest.raises(openai.BadRequestError) as caught:
        world.gateway.openai().get(f"/chat/completions/{job['id']}", cast_to=ChatCompletion)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert world.usage(job["id"]) == []


def test_a_text_completion_and_what_no_column_can_hold_are_answered_too(world: World) -> None:
    job = world.submit("Refunds take", TEXT)
    world.ended(job["id"])
    answer = world.gateway.http().get(f"{TEXT}/{job['id']}").json()
    assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", "Refunds take")
    odd = world.ended(world.submit("nul")["id"])
    assert odd["status"] == "succeeded"
    answer = world.gateway.http().get(odd["result"]["location"]).json()
    assert answer["choices"][0]["message"]["content"] == "a\x00b"


def test_a_tasks_output_guard_goes_for_the_stream_and_for_what_is_stored(world: World) -> None:
    spec = {
        "model": "echo",
        "prompt": "{{ text }}",
        "variables": {"text": {}},
        "guards": {"output": {"pii": {"action": "mask", "types": ["email"]}}},
    }
    made = world.gateway.http().post("/v1/tasks", json={"name": "reply", **{"spec": spec}})
    assert made.status_code == 200, made.text
    job_id = world.submit("write to a.b@example.com now", model="task:reply")["id"]
    attached = read(world, job_id)
    attached.end()
    answer = world.gateway.http().get(f"{CHAT}/{job_id}").json()
    assert answer["model"] == "task:reply@1"
    assert answer["choices"][0]["message"]["content"] == attached.text
    assert "example.com" not in attached.text
    assert attached.text.endswith(" now")
    with redis.Redis.from_url(world.gateway.platform.settings.redis_url) as client:
        assert b"example.com" not in str(client.xrange(streams.kept_stream(job_id))).encode()
    (row,) = world.usage(job_id)
    assert row["metadata"] == {"task": "reply", "task_version": 1}


def test_the_command_line_asks_in_the_background_and_reads_the_answer_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELIU_GATEWAY_URL", world.gateway.url)
    monkeypatch.setenv("HELIU_API_KEY", world.gateway.keys["acme"])

    def heliu(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.stdout

    job_id = heliu("chat", "echo", "退款 soon", "--background", "--priority", "2").strip()
    assert heliu("jobs", "answer", job_id) == "退款 soon\n"
    assert json.loads(heliu("jobs", "show", job_id, "--json"))["priority"] == 2
    text = world.submit("a text", TEXT)["id"]
    assert heliu("jobs", "answer", text) == "a text\n"


def test_a_chat_waits_where_a_worker_of_its_base_alone_takes_it(world: World) -> None:
    named = "inference.default.echo.chats.batch"
    with world.gateway.platform.db.core() as c:
        c.execute(
            "INSERT INTO core.worker (id, name, service, pool, queues, host, pid, slots) "
            "VALUES ('w:1', 'w', 'inference', 'default', %s, 'here', 1, 1)",
            ([named],),
        )
    try:
        # What the gateway knows of workers is a moment old.
        job = wait_until(lambda: (j := world.submit("hello"))["queue"] == named and j, "the queue")
        assert world.gateway.http().post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    finally:
        with world.gateway.platform.db.core() as c:
            c.execute("UPDATE core.worker SET state = 'stopped' WHERE id = 'w:1'")
        wait_until(lambda: world.submit("hello")["queue"] != named, "the worker to be forgotten")


@pytest.mark.parametrize(
    ("more", "status", "param"),
    [
        ({"model": "ecko"}, 404, "model"),
        ({"temperature": 9}, 400, "temperature"),
        ({"priority": 101}, 400, "priority"),
        ({"priority": "high"}, 400, "priority"),
        ({"background": False, "priority": 1}, 400, "priority"),
        ({"expires_after": {"seconds": 0}}, 400, "expires_after.seconds"),
        ({"expires_after": 60}, 400, "expires_after"),
        ({"background": "yes"}, 400, "background"),
        ({"metadata": {"team": 7}}, 400, "metadata.team"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        ({"backgruond": True}, 400, "backgruond"),
    ],
)
def test_what_is_wrong_is_refused_at_its_place_before_anything_is_accepted(
    world: World, more: dict[str, Any], status: int, param: str
) -> None:
    answer = world.gateway.http().post(CHAT, json=body("hello", **more))
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


def test_a_used_up_quota_and_a_model_in_use_are_told(world: World) -> None:
    made = world.gateway.http("operator").post(
        "/v1/keys", json={"name": "small", "tenant": "acme", "tokens_per_day": 5}
    )
    world.gateway.keys["small"] = made.json()["key"]
    client = world.gateway.http("small")
    job_id = client.post(CHAT, json=body("pause 1 and a word or two")).json()["id"]
    refused = world.gateway.http().delete("/v1/models/echo")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_in_use")
    world.go()
    world.ended(job_id)
    over = client.post(CHAT, json=body("more"))
    assert (over.status_code, over.json()["error"]["code"]) == (429, "insufficient_quota")


def test_a_chat_that_is_stored_is_there_with_the_end_of_its_job_and_once(world: World) -> None:
    job = world.submit("nul", store=True, metadata={"use": "later"})
    result = world.ended(job["id"])["result"]
    http = world.gateway.http()
    stored = http.get(f"{CHAT}/{result['answer']}").json()
    assert (stored["object"], stored["metadata"]) == ("chat.completion", {"use": "later"})
    assert stored["choices"][0]["message"]["content"] == "a\x00b", "what Postgres's own JSON cannot hold"
    assert [one["id"] for one in http.get(CHAT, params={"metadata[use]": "later"}).json()["data"]] == [
        result["answer"]
    ]
    assert http.delete(f"{CHAT}/{result['answer']}").status_code == 200
    assert http.get(f"{CHAT}/{result['answer']}").status_code == 404, "the job's own answer has not its name"
    assert http.get(f"{CHAT}/{job['id']}").status_code == 200


def test_a_chat_in_the_background_that_is_too_large_to_be_stored_is_refused(world: World) -> None:
    large = world.gateway.http().post(CHAT, json=body("x" * 600_000, store=True))
    assert (large.status_code, large.json()["error"]["param"]) == (400, "store")
