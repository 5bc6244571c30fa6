"""Models that another server answers for, from the operator's command to batches, on a worker without an engine.

The other server is a real process that speaks OpenAI's API and misbehaves when told to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from typer.testing import CliRunner

from services.cli.main import app
from shared import semconv
from shared.errors import HeliuError
from shared.sealing import is_sealed
from tests import servers
from tests.harness import ROOT, Harness, Process, platform, wait_for
from tests.local_upstream import MODEL

KEY = "sk-the-key-of-the-cluster-behind"
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("first", "second")
]


@contextmanager
def upstream_process() -> Iterator[str]:
    """The address of an upstream in a process of its own; it ends with its stdin."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.local_upstream", KEY],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}/v1"
    finally:
        process.communicate(timeout=20)


class Stage:
    """A platform whose only worker, once it is started, serves the upstream model `far` and no other."""

    def __init__(self, harness: Harness, upstream: str) -> None:
        self.harness, self.upstream = harness, upstream
        self.url = harness.start_gateway()
        harness.start("dispatcher")
        harness.start("monitoring")
        self.client = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=harness.key(), timeout=60, max_retries=0
        )

    def start_worker(self) -> None:
        self.worker: Process = self.harness.start("inference", HELIU_MODELS="far")

    def http(self, key: str = "default") -> httpx.Client:
        headers = {"authorization": f"Bearer {self.harness.key(key)}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def chat(self, order: str, **options: Any) -> Any:
        messages: Any = [{"role": "user", "content": order}]
        return self.client.chat.completions.create(model="far", messages=messages, **options)

    def usage(self) -> list[dict[str, Any]]:
        with self.harness.db.transaction(self.harness.tenant) as c:
            return c.execute("SELECT * FROM gateway.usage ORDER BY id").fetchall()


@pytest.fixture(scope="module")
def stage(postgres: servers.RunningServer, valkey: servers.RunningServer) -> Iterator[Stage]:
    database = servers.new_database(postgres.url, "test_upstreams", template="heliu_template")
    port = str(servers.embedded.free_port())
    settings = {
        "HELIU_OTLP_PORT": port,
        "HELIU_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "HELIU_OTLP_TOKEN": "the-token-of-these-tests",
        "HELIU_SHARD_ROWS": "4",
        "HELIU_UPSTREAM_HOSTS": "127.0.0.1",
        "HELIU_UPSTREAM_SILENCE_SECONDS": "20",
    }
    with upstream_process() as upstream, platform(database, valkey.url, **settings) as harness:
        yield Stage(harness, upstream)
    servers.drop_database(postgres.url, "test_upstreams")


@pytest.fixture(scope="module")
def heliu(stage: Stage) -> Iterator[Callable[..., str]]:
    """`heliu ...` of the operator, in this process; what it writes to standard output."""
    before = dict(os.environ)
    os.environ |= {"HELIU_GATEWAY_URL": stage.url, "HELIU_API_KEY": stage.harness.key("operator")}

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        if isinstance(result.exception, HeliuError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    yield run
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def far(stage: Stage, heliu: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The stage with `far` on it, which can do all that an upstream can."""
    key = tmp_path_factory.mktemp("keys") / "key"
    key.write_text(f"{KEY}\n")
    endpoints = "chat,completions,embeddings"
    where = ("far", stage.upstream + "/", "--model", MODEL)
    shown = heliu("upstreams", "add", *where, "--key-file", str(key), "--endpoints", endpoints)
    assert KEY not in shown
    stage.start_worker()
    return stage


def test_only_an_operator_adds_one_and_only_where_he_may(stage: Stage) -> None:
    body = {"name": "near", "url": stage.upstream, "model": MODEL, "api_key": KEY}
    with stage.http() as tenant:
        for method, path in (
            ("POST", "/v1/upstreams"),
            ("GET", "/v1/upstreams"),
            ("DELETE", "/v1/upstreams/far"),
        ):
            answer = tenant.request(method, path, json=body if method == "POST" else None)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"url": "http://localhost:9/v1"}, "url", "HELIU_UPSTREAM_HOSTS"),
        ({"url": "https://localhost:9/v1"}, "url", "does not talk to localhost"),
        ({"url": "http://169.254.169.254/v1"}, "url", "HELIU_UPSTREAM_HOSTS"),
        ({"url": "file:///etc/passwd"}, "url", "https:// or http://"),
        ({"url": "http://127.0.0.1:9/v1?x=1"}, "url", "query"),
        ({"url": "http://127.0.0.1:9/v1"}, "url", "did not answer"),
        ({"api_key": "sk-wrong"}, "api_key", "refuses the key"),
        ({"api_key": None}, "api_key", "wants a key"),
        ({"api_key": ["sk-in-a-list"]}, "api_key", "must be a string"),
        ({"api_key": "sk-with a space"}, "api_key", "printable ASCII"),
        ({"model": "another"}, "model", f"it lists {MODEL}"),
        ({"endpoints": ["chat", "images"]}, "endpoints", "'images'"),
        ({"endpoints": []}, "endpoints", "one or more"),
        ({"tenant": "nobody"}, "tenant", "no tenant 'nobody'"),
    ]
    with stage.http("operator") as operator:
        for changes, param, words in wrong:
            answer = operator.post("/v1/upstreams", json={**body, **changes})
            error = answer.json()["error"]
            assert answer.status_code in (400, 404), (changes, error)
            assert error["param"] == param, (changes, error)
            assert words in error["message"], (changes, error)
            assert "sk-" not in error["message"]
        assert operator.get("/v1/upstreams").json()["data"] == []


def test_it_is_listed_among_the_models_and_its_key_is_nowhere(far: Stage, heliu: Callable[..., str]) -> None:
    with far.http() as tenant:
        (model,) = tenant.get("/v1/models").json()["data"]
    assert (model["id"], model["kind"]) == ("far", "upstream")
    assert model["info"] == {
        "source": "upstream",
        "upstream_model": MODEL,
        "endpoints": ["chat", "completions", "embeddings"],
        "context_length": 4096,
    }
    told = (
        heliu("upstreams", "list") + heliu("upstreams", "list", "--json") + heliu("upstreams", "test", "far")
    )
    assert far.upstream in told
    assert MODEL in heliu("models", "list")
    assert KEY not in told + heliu("models", "show", "far")
    with far.harness.db.core() as c:
        (audit,) = c.execute("SELECT data FROM core.audit WHERE action = 'upstream_created'").fetchall()
    assert KEY not in json.dumps(audit)
    with (
        far.harness.db.transaction(far.harness.tenant) as c,
        pytest.raises(Exception, match="permission denied"),
    ):
        c.execute("SELECT api_key FROM inference.upstream")


def test_a_key_rests_sealed_and_one_from_before_is_read_and_sealed_on_demand(
    far: Stage, heliu: Callable[..., str]
) -> None:
    def stored() -> str:
        with far.harness.db.core() as c:
            row = c.execute("SELECT api_key FROM inference.upstream WHERE name = 'far'").fetchone()
        assert row is not None
        return str(row["api_key"])

    assert is_sealed(stored())
    assert KEY not in stored()
    with far.harness.db.core() as c:
        c.execute("UPDATE inference.upstream SET api_key = %s WHERE name = 'far'", (KEY,))
    assert MODEL in heliu("upstreams", "test", "far")
    assert json.loads(heliu("sources", "reseal", "--json"))["resealed"] == 1
    assert is_sealed(stored())
    assert MODEL in heliu("upstreams", "test", "far")


def test_the_unmodified_client_gets_all_that_it_knows(far: Stage) -> None:
    whole = far.chat("one two three", seed=1, stop=["END"], n=2, logprobs=True, top_logprobs=1)
    assert [choice.message.content for choice in whole.choices] == ["one two three"] * 2
    assert whole.model == "far"
    assert whole.choices[0].logprobs.content[0].top_logprobs[0].token == "one "
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (7, 6)
    chunks = list(far.chat("one two three", stream=True, stream_options={"include_usage": True}))
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == "one two three"
    assert chunks[-1].usage.completion_tokens == 3
    called = far.chat("call", tools=TOOLS, tool_choice="required").choices[0]
    assert called.finish_reason == "tool_calls"
    assert [call.function.name for call in called.message.tool_calls] == ["first", "second"]
    text = far.client.completions.create(model="far", prompt=["a b", "c"], max_tokens=5)
    assert [choice.text for choice in text.choices] == ["a b", "a b"]
    vectors = far.client.embeddings.create(model="far", input=["x", "xxx"], dimensions=3)
    assert [row.embedding for row in vectors.data] == [[1.0, 0.5, -1.25], [3.0, 0.5, -1.25]]
    assert vectors.usage.prompt_tokens == 6


def test_no_engine_of_the_workers_own_runs(far: Stage) -> None:
    assert far.chat("x").choices
    ran = [" ".join(child.cmdline()) for child in psutil.Process(far.worker.pid).children()]
    assert [line.split()[-1] for line in ran] == ["services.inference.upstream.child"]


@pytest.mark.parametrize(
    ("order", "status", "code", "param"),
    [
        ("400 top_k", 400, "upstream_refused", "top_k"),
        ("500", 502, "upstream_failed", None),
        ("404", 502, "upstream_misconfigured", None),
        ("garbage", 502, "upstream_failed", None),
    ],
)
def test_what_an_upstream_refuses_or_fails_at_is_a_typed_error(
    far: Stage, order: str, status: int, code: str, param: str | None
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as caught:
            far.chat(order, stream=stream)
        assert (caught.value.status_code, caught.value.code, caught.value.param) == (status, code, param)


def test_a_stream_that_is_cut_ends_with_an_error_event(far: Stage) -> None:
    chunks = iter(far.chat("cut off in the middle", stream=True))
    said = [next(chunks).choices[0].delta.content or "" for _ in range(3)]
    with pytest.raises(openai.APIError) as caught:
        next(chunks)
    assert ("".join(said), caught.value.code) == ("cut off ", "upstream_failed")


def test_a_client_that_leaves_closes_the_upstreams_connection(far: Stage) -> None:
    counts = far.upstream.removesuffix("/v1") + "/counts"
    gone = httpx.get(counts).json()["gone"]
    stream = far.chat("endless", stream=True)
    assert [next(iter(stream)).choices[0].delta.content for _ in range(2)] == ["", "more "]
    stream.close()
    wait_for(lambda: httpx.get(counts).json()["gone"] == gone + 1, 30, "the upstream to see that it was left")
    wait_for(lambda: far.usage()[-1]["status"] == "cancelled", 20, "the usage row of what was made")


def test_what_it_does_not_serve_is_refused_by_name(far: Stage, heliu: Callable[..., str]) -> None:
    shown = json.loads(heliu("upstreams", "change", "far", "--endpoints", "chat", "--json", "--no-test"))
    assert (shown["endpoints"], shown["has_api_key"], shown["context_length"]) == (["chat"], True, 4096)
    try:
        with pytest.raises(openai.BadRequestError) as caught:
            far.client.embeddings.create(model="far", input="x")
        assert (caught.value.code, caught.value.param) == ("unsupported_model", "model")
        assert "'upstream', which serves /v1/chat/completions and not /v1/embeddings" in caught.value.message
        with far.http() as http:
            refused = http.post("/v1/tokenize", json={"model": "far", "prompt": "x"})
            assert refused.json()["error"]["code"] == "unsupported_model"
            gone = http.delete("/v1/models/far")
            assert (gone.status_code, gone.json()["error"]["code"]) == (403, "permission_denied")
    finally:
        heliu("upstreams", "change", "far", "--endpoints", "chat,completions,embeddings", "--no-test")


def test_a_task_over_it_is_answered_and_accounted(far: Stage) -> None:
    spec = {"model": "far", "prompt": "say {{ word }} again", "variables": {"word": {}}}
    with far.http() as http:
        made = http.post("/v1/tasks", json={"name": "again", "spec": spec})
        assert made.status_code == 200, made.text
    answer = far.client.chat.completions.create(
        model="task:again",
        messages=[],
        extra_body={"variables": {"word": "it"}},
    )
    assert answer.choices[0].message.content == "say it again"
    wait_for(lambda: far.usage()[-1]["metadata"].get("task") == "again", 20, "the usage row of the task")
    assert far.usage()[-1]["model"] == "far"


def test_one_trace_has_the_client_span_that_the_upstream_was_told_of(far: Stage) -> None:
    raw = far.client.chat.completions.with_raw_response.create(
        model="far", messages=[{"role": "user", "content": "429 1"}]
    )
    trace = raw.headers["x-trace-id"]
    found: list[dict[str, Any]] = []

    def client_spans() -> list[dict[str, Any]]:
        with far.http() as http:
            answer = http.get(f"/v1/traces/{trace}")
        found[:] = answer.json()["spans"] if answer.status_code == 200 else []
        return [span for span in found if span["kind"] == "client"]

    wait_for(client_spans, 60, "the client span")
    (span,) = client_spans()
    by_id = {one["span_id"]: one for one in found}
    assert by_id[span["parent_id"]]["name"] == "chat far"
    told = span["attributes"]
    assert span["name"] == f"chat {MODEL}"
    assert (told[semconv.GEN_AI_REQUEST_MODEL], told[semconv.GEN_AI_RESPONSE_MODEL]) == (MODEL, MODEL)
    assert (told[semconv.SERVER_ADDRESS], told[semconv.HTTP_RESENDS]) == ("127.0.0.1", 1)
    assert told[semconv.GEN_AI_OUTPUT_TOKENS] == 2
    assert KEY not in json.dumps(found)


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/embeddings"])
def test_a_batch_is_answered_row_by_row(far: Stage, endpoint: str) -> None:
    def body(order: str) -> dict[str, Any]:
        if endpoint == "/v1/embeddings":
            return {"model": "far", "input": [order, "second"]}
        return {"model": "far", "messages": [{"role": "user", "content": order}]}

    orders = ["first row", "400 seed", "503 1", "500 1", "last"]
    lines = [
        json.dumps({"custom_id": order, "method": "POST", "url": endpoint, "body": body(order)})
        for order in orders
    ]
    file = far.client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    batch = far.client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")  # type: ignore[arg-type]
    far.harness.wait_job(batch.id, 90)
    ended = far.client.batches.retrieve(batch.id)
    assert ended.status == "completed", ended
    assert ended.output_file_id is not None
    assert ended.error_file_id is not None
    rows = [json.loads(line) for line in far.client.files.content(ended.output_file_id).text.splitlines()]
    assert sorted(row["custom_id"] for row in rows) == sorted({*orders} - {"400 seed"})
    assert {row["response"]["status_code"] for row in rows} == {200}
    (failed,) = [json.loads(line) for line in far.client.files.content(ended.error_file_id).text.splitlines()]
    error = (failed["response"] or {}).get("body", failed).get("error") or failed["error"]
    assert (failed["custom_id"], error["code"], error["param"]) == ("400 seed", "upstream_refused", "seed")
    assert len([row for row in far.usage() if row["job_id"] == batch.id]) == 4


def test_the_key_is_in_no_log(far: Stage, tmp_path: Path) -> None:
    logs = "".join(process.log.read_text() for process in far.harness.processes)
    assert KEY not in logs


def test_removing_it_takes_the_key_away_and_its_requests(far: Stage, heliu: Callable[..., str]) -> None:
    with pytest.raises(HeliuError) as caught:
        heliu("upstreams", "remove", "far")
    assert (caught.value.code, "tasks again" in caught.value.message) == ("model_in_use", True)
    with far.http() as http:
        assert http.delete("/v1/tasks/again").status_code == 200
    heliu("upstreams", "remove", "far")
    with far.harness.db.core() as c:
        assert c.execute("SELECT 1 FROM inference.upstream").fetchall() == []
    with pytest.raises(openai.NotFoundError):
        far.chat("x")
