"""Tasks through a real gateway and the echo worker: made, versioned, routed, called, guarded, counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import psycopg
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests import servers
from tests.conftest import TEMPLATE
from tests.integration.gateway_app import PEPPER, RunningGateway, running_gateway

ROOT = Path(__file__).parents[2]
SPEC: dict[str, Any] = {"model": "echo", "prompt": "{{ text }}", "variables": {"text": {}}}


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds} s"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """One for all: each test has tasks of its own."""
    url = servers.new_database(postgres.url, "tasks", template=TEMPLATE)
    with running_gateway(url, valkey.url, tmp_path_factory.mktemp("gateway")) as running:
        running.add_model("echo")
        running.add_model("theirs", tenant="rival")
        running.add_model("vectors", kind="encoder")
        yield running
    servers.drop_database(postgres.url, "tasks")


@contextmanager
def echo_worker(gateway: RunningGateway) -> Iterator[None]:
    """A worker process that says back what it is asked, ready."""
    settings = gateway.platform.settings
    home = settings.home
    given = {
        "HELIU_HOME": str(home),
        "HELIU_DATABASE_URL": settings.database_url,
        "HELIU_REDIS_URL": settings.redis_url,
        "HELIU_READY_FILE": str(home / "ready"),
        "HELIU_KEY_PEPPER": PEPPER,
        "HELIU_DRAIN_SECONDS": "1",
    }
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.live_echo_worker"],
            cwd=ROOT,
            env={**os.environ, **given},
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(lambda: (home / "ready").exists() or process.poll() is not None, "the worker", 60)
            assert process.poll() is None, (home / "log").read_text()[-3000:]
            yield
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def _worker(gateway: RunningGateway) -> Iterator[None]:
    with echo_worker(gateway):
        yield


@pytest.fixture
def http(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with gateway.http() as client:
        yield client


def make(http: httpx.Client, name: str, **changes: Any) -> dict[str, Any]:
    answer = http.post("/v1/tasks", json={"name": name, "spec": {**SPEC, **changes}})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def add_version(http: httpx.Client, name: str, *, activate: bool = False, **changes: Any) -> dict[str, Any]:
    body = {"spec": {**SPEC, **changes}, "activate": activate}
    answer = http.post(f"/v1/tasks/{name}/versions", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def call(http: httpx.Client, name: str, **body: Any) -> httpx.Response:
    body.setdefault("variables", {"text": "hello"})
    return http.post("/v1/chat/completions", json={"model": f"task:{name}", "messages": [], **body})


def error(answer: httpx.Response) -> tuple[int, str, str | None]:
    told = answer.json()["error"]
    return answer.status_code, told["code"], told["param"]


def usage(gateway: RunningGateway, request_id: str) -> dict[str, Any]:
    def rows() -> list[dict[str, Any]]:
        with gateway.as_tenant() as c:
            return c.execute("SELECT * FROM gateway.usage WHERE request_id = %s", (request_id,)).fetchall()

    return dict(wait_until(rows, "the usage row")[0])


def test_a_task_is_made_shown_listed_across_pages_and_deleted(http: httpx.Client) -> None:
    made = [make(http, f"crud-{number}")["id"] for number in range(3)]
    shown = http.get("/v1/tasks/crud-1").json()
    assert (shown["model"], shown["active_version"], shown["weights"]) == ("task:crud-1", 1, {"1": 1})
    listed: list[str] = []
    page: dict[str, Any] = {"has_more": True, "last_id": ""}
    while page["has_more"]:
        page = http.get("/v1/tasks", params={"limit": 2, "after": page["last_id"]}).json()
        listed += [task["id"] for task in page["data"]]
    assert [task for task in listed if task in made] == made[::-1]
    assert http.delete("/v1/tasks/crud-1").json() == {"id": "crud-1", "object": "task", "deleted": True}
    for gone in (http.get("/v1/tasks/crud-1"), http.delete("/v1/tasks/crud-1")):
        assert error(gone) == (404, "not_found", "name")
    assert make(http, "crud-1")["latest_version"] == 1
    assert error(http.get("/v1/tasks", params={"after": "task-x"})) == (400, "invalid_value", "after")


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"spec": SPEC}, 400, "missing_required_parameter", "name"),
        ({"name": "A B", "spec": SPEC}, 400, "invalid_value", "name"),
        ({"name": "x"}, 400, "missing_required_parameter", "spec"),
        ({"name": "x", "spec": {**SPEC, "model": "ecko"}}, 404, "model_not_found", "spec.model"),
        ({"name": "x", "spec": {**SPEC, "model": "theirs"}}, 404, "model_not_found", "spec.model"),
        ({"name": "x", "spec": {**SPEC, "model": "vectors"}}, 400, "unsupported_model", "spec.model"),
        ({"name": "x", "spec": {**SPEC, "model": "task:y"}}, 400, "invalid_value", "spec.model"),
        ({"name": "x", "spec": {**SPEC, "prompt": "{{ txt }}"}}, 400, "undeclared_variable", "spec.prompt"),
        ({"name": "x", "spec": {**SPEC, "promt": "a"}}, 400, "unknown_parameter", "spec.promt"),
        (
            {"name": "x", "spec": {**SPEC, "retrieval": {}}},
            400,
            "missing_required_parameter",
            "spec.retrieval.vector_store",
        ),
        (
            {"name": "x", "spec": {**SPEC, "retrieval": {"vector_store": "vs_none"}}},
            404,
            "not_found",
            "spec.retrieval.vector_store",
        ),
        (
            {"name": "x", "spec": {**SPEC, "variables": {"text": {"type": "text"}}}},
            400,
            "invalid_value",
            "spec.variables.text.type",
        ),
        (
            {"name": "x", "spec": {**SPEC, "variables": {"a b": {}}}},
            400,
            "invalid_value",
            "spec.variables",
        ),
        (
            {"name": "x", "spec": {**SPEC, "variables": {"text": {"type": "enum"}}}},
            400,
            "invalid_value",
            "spec.variables.text",
        ),
        (
            {"name": "x", "spec": {**SPEC, "guards": {"input": {"blocked": ["(a+)+"]}}}},
            400,
            "invalid_pattern",
            "spec.guards.input.blocked[0]",
        ),
        (
            {"name": "x", "spec": {**SPEC, "response_format": {"type": "xml"}}},
            400,
            "invalid_value",
            "spec.response_format.type",
        ),
    ],
)
def test_a_wrong_task_is_refused_by_its_place(
    http: httpx.Client, body: dict[str, Any], status: int, code: str, param: str
) -> None:
    assert error(http.post("/v1/tasks", json=body)) == (status, code, param)


def test_a_name_is_taken_once_and_a_retry_adds_no_version(http: httpx.Client) -> None:
    make(http, "twice")
    again = http.post("/v1/tasks", json={"name": "twice", "spec": SPEC})
    assert error(again) == (409, "already_exists", "name")
    assert again.headers["x-should-retry"] == "false"
    assert add_version(http, "twice", decoding={"seed": 1})["version"] == 2
    assert add_version(http, "twice", decoding={"seed": 1})["version"] == 2


def test_versions_are_listed_compared_and_never_changed(gateway: RunningGateway, http: httpx.Client) -> None:
    make(http, "versions")
    add_version(http, "versions", prompt="Say {{ text }}", decoding={"temperature": 0.5})
    add_version(http, "versions", prompt="Tell {{ text }}")
    first = http.get("/v1/tasks/versions/versions", params={"limit": 2}).json()
    rest = http.get("/v1/tasks/versions/versions", params={"after": first["last_id"]}).json()
    assert [row["version"] for row in first["data"] + rest["data"]] == [3, 2, 1]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert [row["share"] for row in first["data"] + rest["data"]] == [0, 0, 1]
    found = http.get("/v1/tasks/versions/diff", params={"from": 1, "to": 2}).json()["changes"]
    assert {(entry["place"], entry["change"]) for entry in found} == {
        ("prompt", "changed"),
        ("decoding", "added"),
    }
    newest = http.get("/v1/tasks/versions/diff").json()
    assert (newest["from"], newest["to"]) == (2, 3)
    assert error(http.get("/v1/tasks/versions/versions/9")) == (404, "not_found", "version")
    assert error(http.get("/v1/tasks/versions/diff", params={"from": 1, "to": 9})) == (404, "not_found", "to")
    for statement in ("UPDATE gateway.task_version SET note = 'x'", "DELETE FROM gateway.task_version"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), gateway.as_tenant() as c:
            c.execute(statement)


def test_versions_made_at_once_have_numbers_of_their_own(http: httpx.Client) -> None:
    make(http, "race")
    with ThreadPoolExecutor(6) as pool:
        made = pool.map(lambda seed: add_version(http, "race", decoding={"seed": seed}), range(6))
    found = {version["version"]: version["spec"]["decoding"]["seed"] for version in made}
    assert sorted(found) == [2, 3, 4, 5, 6, 7]
    assert sorted(found.values()) == list(range(6))


def test_routes_are_changed_and_rolled_back_step_by_step(http: httpx.Client) -> None:
    make(http, "routes")
    add_version(http, "routes", prompt="2 {{ text }}")
    assert http.post("/v1/tasks/routes/split", json={"weights": {"1": 90, "2": 10}}).json()["weights"] == {
        "1": 90,
        "2": 10,
    }
    assert http.post("/v1/tasks/routes/activate", json={"version": 2}).json()["active_version"] == 2
    back = [http.post("/v1/tasks/routes/rollback").json() for _ in range(2)]
    assert [task["weights"] for task in back] == [{"1": 90, "2": 10}, {"1": 1}]
    assert error(http.post("/v1/tasks/routes/rollback")) == (409, "conflict", None)
    for body, said in (
        ({"1": 0}, (400, "invalid_value", "weights")),
        ({"x": 1}, (400, "invalid_value", "weights")),
        ({"01": 1}, (400, "invalid_value", "weights")),
        ({"9": 1}, (404, "not_found", "version")),
        ({}, (400, "invalid_value", "weights")),
    ):
        assert error(http.post("/v1/tasks/routes/split", json={"weights": body})) == said
    assert error(http.post("/v1/tasks/routes/activate", json={"version": 0})) == (
        400,
        "invalid_value",
        "version",
    )


def test_another_tenant_sees_and_calls_none_of_it(gateway: RunningGateway, http: httpx.Client) -> None:
    make(http, "private")
    with gateway.http("rival") as rival:
        assert rival.get("/v1/tasks").json()["data"] == []
        for method, path, body in (
            ("GET", "", None),
            ("DELETE", "", None),
            ("GET", "/versions", None),
            ("GET", "/versions/1", None),
            ("GET", "/diff?from=1&to=1", None),
            ("POST", "/activate", {"version": 1}),
            ("POST", "/split", {"weights": {"1": 1}}),
            ("POST", "/rollback", {}),
            ("POST", "/versions", {"spec": {**SPEC, "model": "theirs"}}),
        ):
            answer = rival.request(method, f"/v1/tasks/private{path}", json=body)
            assert error(answer) == (404, "not_found", "name")
        assert error(call(rival, "private")) == (404, "model_not_found", "model")
    assert http.get("/v1/tasks/private").status_code == 200


@pytest.mark.usefixtures("_worker")
def test_the_openai_client_calls_a_task_plain_and_streamed(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    make(http, "plain", prompt="{{ text }} {{ word }}", variables={"text": {}, "word": {"default": "there"}})
    client = gateway.openai()
    raw = client.chat.completions.with_raw_response.create(
        model="task:plain", messages=[{"role": "user", "content": "hello"}]
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == "hello there"
    assert (answer.model, raw.headers["x-heliu-task-version"]) == ("task:plain@1", "plain@1")
    row = usage(gateway, raw.headers["x-request-id"])
    assert (row["model"], row["metadata"]) == ("echo", {"task": "plain", "task_version": 1})
    stream = client.chat.completions.create(
        model="task:plain@1",
        messages=[],
        stream=True,
        extra_body={"variables": {"text": "你好", "word": "吗"}},
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "你好 吗"
    versions = http.get("/v1/tasks/plain/versions").json()["data"]
    assert (versions[0]["usage"]["requests"], versions[0]["usage"]["prompt_tokens"]) in ((1, 7), (2, 14))


@pytest.mark.usefixtures("_worker")
def test_a_split_keeps_a_user_with_one_version_and_gives_each_its_share(http: httpx.Client) -> None:
    make(http, "split", prompt="one {{ text }}")
    add_version(http, "split", prompt="two {{ text }}")
    http.post("/v1/tasks/split/split", json={"weights": {"1": 1, "2": 1}})
    got: dict[str, set[str]] = {}
    for user in [f"u{number}" for number in range(8)] * 2:
        answer = call(http, "split", user=user)
        version = answer.headers["x-heliu-task-version"]
        word = answer.json()["choices"][0]["message"]["content"].split()[0]
        assert (version, word) in (("split@1", "one"), ("split@2", "two"))
        got.setdefault(user, set()).add(version)
    assert all(len(versions) == 1 for versions in got.values())
    assert set.union(*got.values()) == {"split@1", "split@2"}
    assert call(http, "split@2", user="u0").headers["x-heliu-task-version"] == "split@2"


@pytest.mark.usefixtures("_worker")
def test_refused_input_is_a_400_that_names_the_guard_and_reaches_no_model(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    make(http, "input", guards={"input": {"pii": {"action": "refuse"}, "languages": ["zh", "en"]}})
    spans = InMemorySpanExporter()
    gateway.platform.tracing._provider.add_span_processor(SimpleSpanProcessor(spans))
    answer = call(http, "input", variables={"text": "电话13800138000"}, stream=True)
    assert error(answer) == (400, "content_filter", "variables.text")
    assert "input.pii" in answer.json()["error"]["message"]
    assert "138001" not in answer.text
    (span,) = [span for span in spans.get_finished_spans() if span.name == "guard.input"]
    assert (span.attributes or {})["heliu.task.name"] == "input"
    assert not span.status.is_ok
    assert "138001" not in span.to_json()


@pytest.mark.usefixtures("_worker")
@pytest.mark.parametrize("stream", [False, True])
def test_personal_data_never_reach_the_model_nor_leave_it(
    gateway: RunningGateway, http: httpx.Client, stream: bool
) -> None:
    name = f"mask-{int(stream)}"
    make(
        http,
        name,
        guards={"input": {"pii": {"action": "mask"}}, "output": {"pii": {"action": "mask"}}},
        prompt="{{ text }} 010-62345678 is ours",
    )
    answer = call(http, name, variables={"text": "mail a@b.co or"}, stream=stream)
    said = _said(answer, stream)
    assert said == ("mail [EMAIL] or [PHONE] is ours", "stop")
    row = usage(gateway, answer.headers["x-request-id"])
    assert (row["completion_tokens"], row["metadata"]["task"]) == (6, name)


@pytest.mark.usefixtures("_worker")
@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_answer_ends_with_content_filter_and_is_counted(
    gateway: RunningGateway, http: httpx.Client, stream: bool
) -> None:
    name = f"blocked-{int(stream)}"
    make(http, name, guards={"output": {"blocked": ["secret plan"]}})
    spans = InMemorySpanExporter()
    gateway.platform.tracing._provider.add_span_processor(SimpleSpanProcessor(spans))
    answer = call(http, name, variables={"text": "this is our secret plan for all of you"}, stream=stream)
    text, reason = _said(answer, stream)
    assert reason == "content_filter"
    assert "this is our ".startswith(text)
    assert not stream or text
    row = usage(gateway, answer.headers["x-request-id"])
    assert (row["status"], row["prompt_tokens"], row["completion_tokens"]) == ("ok", 7, 9)
    assert row["metadata"]["refused_by"] == "output.blocked"
    (span,) = [span for span in spans.get_finished_spans() if span.name == "guard.output"]
    assert (span.attributes or {})["heliu.guard.refused_by"] == "output.blocked"


@pytest.mark.usefixtures("_worker")
@pytest.mark.parametrize("stream", [False, True])
def test_a_worker_stops_when_nothing_more_of_its_answer_will_be_shown(
    gateway: RunningGateway, http: httpx.Client, stream: bool
) -> None:
    name = f"enough-{int(stream)}"
    make(http, name, guards={"output": {"max_chars": 10}})
    # It would go on for ever.
    answer = call(http, name, variables={"text": "endless"}, stream=stream)
    assert _said(answer, stream) == ("on on on o", "content_filter")
    assert (gateway.platform.settings.home / "cancelled").exists()
    row = usage(gateway, answer.headers["x-request-id"])
    assert (row["status"], row["prompt_tokens"]) == ("ok", 7)


@pytest.mark.usefixtures("_worker")
def test_an_error_of_the_worker_and_a_client_that_leaves_are_as_for_a_model(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    make(http, "faults", guards={"output": {"max_chars": 1000}})
    failed = call(http, "faults", variables={"text": "fail context_length_exceeded"})
    assert error(failed) == (400, "context_length_exceeded", "messages")
    with gateway.http() as client, suppress(httpx.HTTPError):
        body = {"model": "task:faults", "messages": [], "variables": {"text": "endless"}, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            request_id = answer.headers["x-request-id"]
            next(answer.iter_lines())
    assert usage(gateway, request_id)["status"] == "cancelled"


def test_what_a_task_refuses_of_a_request_is_told_by_its_place(http: httpx.Client) -> None:
    make(http, "refusals", decoding={"temperature": 0})
    for body, said in (
        ({"temperature": 1}, (400, "unsupported_parameter", "temperature")),
        ({"variables": {"txt": "a"}}, (400, "unknown_parameter", "variables.txt")),
        ({"variables": {}}, (400, "missing_required_parameter", "variables.text")),
        ({"variables": []}, (400, "invalid_value", "variables")),
        ({"user": 3}, (400, "invalid_value", "user")),
        ({"model": "task:refusal"}, (404, "model_not_found", "model")),
        ({"model": "task:refusals@7"}, (404, "model_not_found", "model")),
        ({"model": "task:"}, (400, "invalid_value", "model")),
    ):
        assert error(call(http, "refusals", **body)) == said
    elsewhere = http.post("/v1/completions", json={"model": "task:refusals", "prompt": "x"})
    assert error(elsewhere) == (404, "model_not_found", "model")
    assert "/v1/chat/completions" in elsewhere.json()["error"]["message"]
    plain = http.post("/v1/chat/completions", json={"model": "echo", "messages": [], "variables": {}})
    assert plain.status_code == 400


def test_a_version_whose_model_was_deleted_says_so_and_gets_no_callers(
    gateway: RunningGateway, http: httpx.Client
) -> None:
    gateway.add_model("short-lived")
    make(http, "orphan", model="short-lived")
    add_version(http, "orphan", activate=True)
    assert http.delete("/v1/models/short-lived").status_code == 200
    refused = call(http, "orphan@1")
    assert error(refused) == (404, "model_not_found", "model")
    assert "orphan@1 runs on the model 'short-lived'" in refused.json()["error"]["message"]
    for path, body in (
        ("rollback", {}),
        ("activate", {"version": 1}),
        ("split", {"weights": {"1": 1, "2": 1}}),
    ):
        assert error(http.post(f"/v1/tasks/orphan/{path}", json=body)) == (409, "conflict", "version")


def test_the_ready_tasks_can_be_installed_as_they_are(http: httpx.Client) -> None:
    ready = http.get("/v1/ready_tasks").json()["data"]
    assert len(ready) >= 10
    for task in ready:
        answer = http.post("/v1/tasks", json={**task, "spec": {**task["spec"], "model": "echo"}})
        assert answer.status_code == 200, answer.text


def _said(answer: httpx.Response, stream: bool) -> tuple[str, str]:
    """(text, finish reason)."""
    assert answer.status_code == 200, answer.text
    if not stream:
        choice = answer.json()["choices"][0]
        return choice["message"]["content"], choice["finish_reason"]
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
    (reason,) = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices), reason


def test_openai_errors_are_typed(gateway: RunningGateway) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        gateway.openai().chat.completions.create(model="task:nowhere", messages=[])
    assert caught.value.code == "model_not_found"
