"""Whatever a client sends wrong gets a 4xx in OpenAI's shape that names the place; never a 500."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests import servers
from tests.integration.gateway_app import RunningGateway, running_gateway

CHAT = "/v1/chat/completions"
EMBED = "/v1/embeddings"
TOKENIZE = "/v1/tokenize"
FT = "/v1/fine_tuning/jobs"
LONG = "x" * 15_000


@pytest.fixture(scope="module")
def gateway(
    postgres: servers.RunningServer, valkey: servers.RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """One gateway for the whole table: nothing here changes anything."""
    name = "test_bad_input"
    url = servers.new_database(postgres.url, name, template="heliu_template")
    home: Path = tmp_path_factory.mktemp("home")
    # What ought to be refused and is not soon shows: no worker is there to take it.
    caps = {"max_body_bytes": 20_000, "max_upload_bytes": 5000, "live_deadline_seconds": 0.5}
    with running_gateway(url, valkey.url, home, **caps) as running:
        running.add_model("m")
        running.add_model("encoder", kind="encoder")
        running.add_version("dsv-good")
        running.add_version("dsv-bad", passed=False)
        running.add_version("dsv-alone")
        with running.as_tenant() as c:
            c.execute(
                "UPDATE data_governance.version SET train_rows = 3, validation_rows = 0 WHERE id = 'dsv-alone'"
            )
            for file_id, purpose in (("file-tune", "fine-tune"), ("file-batch", "batch")):
                c.execute(
                    "INSERT INTO gateway.file (id, tenant_id, filename, purpose, bytes, artifact) "
                    "VALUES (%s, %s, 'x', %s, 1, %s)",
                    (file_id, running.tenants["acme"], purpose, "sha256:" + "c" * 64),
                )
        yield running
    servers.drop_database(postgres.url, name)


def chat(**values: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "x"}], **values}


def tune(**values: Any) -> dict[str, Any]:
    return {"model": "m", "training_file": "file-tune", **values}


def hyper(**values: Any) -> dict[str, Any]:
    return tune(method={"type": "supervised", "supervised": {"hyperparameters": values}})


def batch(**values: Any) -> dict[str, Any]:
    return {
        "input_file_id": "file-batch",
        "endpoint": CHAT,
        "completion_window": "24h",
        **values,
    }


def prefer(**values: Any) -> dict[str, Any]:
    return tune(method={"type": "dpo", "dpo": {"hyperparameters": values}})


def data(**values: Any) -> dict[str, Any]:
    return {"name": "d", "file_id": "file-tune", **values}


def raw(text: str) -> bytes:
    return text.encode()


# (path, body as an object or as bytes, place that the error names, status)
POSTS: list[tuple[str, Any, str, int]] = [
    (CHAT, b"", "body", 400),
    (CHAT, b"   ", "body", 400),
    (CHAT, b"{", "body", 400),
    (CHAT, b"null", "body", 400),
    (CHAT, b"[]", "body", 400),
    (CHAT, b'"x"', "body", 400),
    (CHAT, b"12", "body", 400),
    (CHAT, b'{"model": "\xff\xfe"}', "body", 400),
    (CHAT, "{'model': 1}".encode("utf-16"), "body", 400),
    (CHAT, raw('{"model": NaN}'), "body", 400),
    (CHAT, raw('{"temperature": Infinity}'), "body", 400),
    (CHAT, raw('{"temperature": -Infinity}'), "body", 400),
    (CHAT, raw('{"temperature": 1e999}'), "body", 400),
    (CHAT, raw('{"seed": ' + "9" * 5000 + "}"), "body", 400),
    (CHAT, raw('{"model": "m", "model": "n"}'), "model", 400),
    (CHAT, raw('{"a":' * 3000), "body", 400),
    (CHAT, raw("[" * 9000 + "]" * 9000), "body", 400),
    (CHAT, raw('{"metadata":' + '{"a":' * 100 + "1" + "}" * 101), "metadata.a.a.a", 400),
    (CHAT, raw('{"model": "a\\u0000b"}'), "model", 400),
    (CHAT, raw('{"model": "a\\ud800b"}'), "model", 400),
    (CHAT, raw('{"a\\u0000b": 1}'), "body", 400),
    (CHAT, raw('{"model": "' + "x" * 30_000 + '"}'), "body", 413),
    (CHAT, {}, "model", 400),
    (CHAT, chat(model=3), "model", 400),
    (CHAT, chat(model=""), "model", 400),
    (CHAT, chat(model="x" * 1000), "model", 400),
    (CHAT, chat(model="nobody"), "model", 404),
    (CHAT, chat(messages="hello"), "messages", 400),
    (CHAT, chat(messages=[]), "messages", 400),
    (CHAT, chat(messages=[3]), "messages[0]", 400),
    (CHAT, chat(messages=[{"role": "user"}]), "messages[0].content", 400),
    (CHAT, chat(messages=[{"role": "robot", "content": "x"}]), "messages[0].role", 400),
    (CHAT, chat(messages=[{"role": "tool", "content": "x"}]), "messages[0].tool_call_id", 400),
    (CHAT, chat(messages=[{"role": "user", "content": 3}]), "messages[0].content", 400),
    (CHAT, chat(messages=[{"role": "user", "content": "x", "colour": 1}]), "messages[0].colour", 400),
    (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]),
        "messages[0].content",
        400,
    ),
    (
        CHAT,
        chat(messages=[{"role": "assistant", "content": "x", "tool_calls": [{"id": "a"}]}]),
        "messages[0].tool_calls",
        400,
    ),
    (CHAT, chat(messages=[{"role": LONG, "content": "x"}]), "messages[0].role", 400),
    (CHAT, chat(messages=[{"role": "user", "content": "x", LONG: 1}]), "messages[0].xxx", 400),
    (CHAT, chat(messages=[{"role": "user", "content": [{"type": LONG, "text": ""}]}]), "messages[0]", 400),
    (CHAT, chat(**{LONG: 1}), "xxx", 400),
    (CHAT, chat(model=LONG), "model", 400),
    (CHAT, chat(tools=LONG), "tools", 400),
    (FT, tune(**{LONG: 1}), "xxx", 400),
    (FT, hyper(**{LONG: LONG[:1000]}), "method.supervised.hyperparameters.xxx", 400),
    ("/v1/batches", batch(endpoint=LONG), "endpoint", 400),
    ("/v1/datasets", data(recipe={LONG: 1}), "recipe.xxx", 400),
    ("/v1/datasets", data(recipe={"steps": [{"op": LONG}]}), "recipe.steps[0]", 400),
    (
        "/v1/datasets",
        data(recipe={"steps": [{"op": "mask_pii", "params": {LONG: 1}}]}),
        "recipe.steps[0]",
        400,
    ),
    ("/v1/webhooks", {"url": LONG, "events": ["job.failed"]}, "url", 400),
    ("/v1/webhooks", {"url": "https://example.com", "events": [LONG]}, "events[0]", 400),
    ("/v1/webhooks", {"url": "https://exa\u0001mple.com", "events": ["job.failed"]}, "url", 400),
    ("/v1/jobs", {"kind": "noop", "metadata": {LONG: "x"}}, "metadata.xxx", 400),
    (CHAT, chat(temperature="hot"), "temperature", 400),
    (CHAT, chat(temperature=3), "temperature", 400),
    (CHAT, chat(temperature=-1), "temperature", 400),
    (CHAT, chat(top_p=0), "top_p", 400),
    (CHAT, chat(top_p=True), "top_p", 400),
    (CHAT, chat(max_tokens=0), "max_tokens", 400),
    (CHAT, chat(max_tokens=10**30), "max_tokens", 400),
    (CHAT, chat(max_tokens=1, max_completion_tokens=2), "max_tokens", 400),
    (CHAT, chat(seed=2**70), "seed", 400),
    (CHAT, chat(stop=["a", "b", "c", "d", "e"]), "stop", 400),
    (CHAT, chat(stop=""), "stop", 400),
    (CHAT, chat(n=0), "n", 400),
    (CHAT, chat(n=10**6), "n", 400),
    (CHAT, chat(stream="yes"), "stream", 400),
    (CHAT, chat(stream_options={"include_usage": True}), "stream_options", 400),
    (CHAT, chat(tools=[{"type": "function"}]), "tools", 400),
    (CHAT, chat(response_format={"type": "telepathy"}), "response_format", 400),
    (CHAT, chat(logprobs="yes"), "logprobs", 400),
    (CHAT, chat(audio={"voice": "x"}), "audio", 400),
    (CHAT, chat(store="yes"), "store", 400),
    (CHAT, chat(temprature=1), "temprature", 400),
    (CHAT, chat(model="encoder"), "model", 400),
    ("/v1/completions", {"model": "encoder", "prompt": "x"}, "model", 400),
    (EMBED, {}, "model", 400),
    (EMBED, {"model": "m"}, "input", 400),
    (EMBED, {"model": "nobody", "input": "x"}, "model", 404),
    (EMBED, {"model": "m", "input": ""}, "input", 400),
    (EMBED, {"model": "m", "input": []}, "input", 400),
    (EMBED, {"model": "m", "input": {LONG: 1}}, "input", 400),
    (EMBED, {"model": "m", "input": ["x", LONG[:100], None]}, "input[2]", 400),
    (EMBED, {"model": "m", "input": [[1, 2], [3, "x"]]}, "input[1]", 400),
    (EMBED, {"model": "m", "input": ["x"] * 2049}, "input", 400),
    (EMBED, {"model": "m", "input": "x", "dimensions": 0}, "dimensions", 400),
    (EMBED, {"model": "m", "input": "x", "dimensions": 10**30}, "dimensions", 400),
    (EMBED, {"model": "m", "input": "x", "encoding_format": "int8"}, "encoding_format", 400),
    (EMBED, {"model": "m", "input": "x", "dimension": 8}, "dimension", 400),
    (EMBED, {"model": "m", "input": "x" * 30_000}, "body", 413),
    (TOKENIZE, {}, "model", 400),
    (TOKENIZE, {"model": "m"}, "prompt", 400),
    (TOKENIZE, {"model": "m", "prompt": "x", "messages": []}, "prompt", 400),
    (TOKENIZE, {"model": "m", "messages": [{"role": LONG, "content": "x"}]}, "messages[0].role", 400),
    (TOKENIZE, {"model": "nobody", "prompt": "x"}, "model", 404),
    ("/v1/detokenize", {"model": "m"}, "tokens", 400),
    ("/v1/detokenize", {"model": "m", "tokens": [1, -1]}, "tokens[1]", 400),
    ("/v1/detokenize", {"model": "nobody", "tokens": [1]}, "model", 404),
    (FT, tune(model="encoder"), "model", 400),
    ("/v1/evaluations", {"model": "encoder", "dataset_version": "dsv-good"}, "model", 400),
    (FT, {}, "model", 400),
    (FT, {"model": "m"}, "training_file", 400),
    (FT, tune(model="nobody"), "model", 404),
    (FT, tune(model=["m"]), "model", 400),
    (FT, tune(training_file="file-nobody"), "training_file", 404),
    (FT, tune(training_file="file-batch"), "training_file", 400),
    (FT, tune(training_file="../../etc/passwd"), "training_file", 400),
    (FT, tune(training_file="dsv-nobody"), "training_file", 404),
    (FT, tune(training_file="dsv-bad"), "training_file", 400),
    (FT, tune(validation_file="file-nobody"), "validation_file", 404),
    (FT, tune(suffix="x" * 65), "suffix", 400),
    (FT, tune(suffix="a b"), "suffix", 400),
    (FT, tune(seed=-1), "seed", 400),
    (FT, tune(seed=2**40), "seed", 400),
    (FT, tune(seed=1.5), "seed", 400),
    (FT, tune(metadata={"a": 1}), "metadata.a", 400),
    (FT, tune(metadata={str(i): "x" for i in range(17)}), "metadata", 400),
    (FT, tune(metadata={"a": "x" * 513}), "metadata.a", 400),
    (FT, tune(metadata={"a" * 65: "x"}), "metadata." + "a" * 65, 400),
    (FT, tune(integrations=[{"type": "wandb"}]), "integrations", 400),
    (FT, tune(method={"type": "reinforcement", "reinforcement": {}}), "method.type", 400),
    (FT, tune(method={"type": "dpo", "supervised": {}}), "method.supervised", 400),
    (FT, prefer(beta=0), "method.dpo.hyperparameters.beta", 400),
    (FT, prefer(loss="best"), "method.dpo.hyperparameters.loss", 400),
    (FT, prefer(label_smoothing=0.1), "hyperparameters.label_smoothing", 400),
    (FT, prefer(loss="robust", label_smoothing=0.5), "hyperparameters.label_smoothing", 400),
    (FT, prefer(method="full", lora_r=4), "hyperparameters.lora_r", 400),
    (FT, prefer(packing=True), "method.dpo.hyperparameters.packing", 400),
    (FT, tune(method={"type": "magic"}), "method.type", 400),
    (FT, tune(method={"type": "supervised", "dpo": {}}), "method.dpo", 400),
    (FT, tune(method={"type": "supervised"}, hyperparameters={"n_epochs": 1}), "hyperparameters", 400),
    (FT, tune(hyperparameters={"n_epochs": 0}), "hyperparameters.n_epochs", 400),
    (FT, tune(hyperparameters={"n_epochs": "3"}), "hyperparameters.n_epochs", 400),
    (FT, hyper(n_epoch=3), "method.supervised.hyperparameters.n_epoch", 400),
    (FT, hyper(batch_size=10**9), "method.supervised.hyperparameters.batch_size", 400),
    (FT, hyper(learning_rate=-1), "method.supervised.hyperparameters.learning_rate", 400),
    (FT, hyper(lora_dropout=1), "method.supervised.hyperparameters.lora_dropout", 400),
    (FT, tune(sufix="x"), "sufix", 400),
    ("/v1/batches", {}, "input_file_id", 400),
    ("/v1/batches", batch(input_file_id="file-nobody"), "input_file_id", 404),
    ("/v1/batches", batch(input_file_id="file-tune"), "input_file_id", 400),
    ("/v1/batches", batch(endpoint="/v1/images/generations"), "endpoint", 400),
    ("/v1/batches", batch(completion_window="1h"), "completion_window", 400),
    (
        "/v1/batches",
        batch(output_expires_after={"anchor": "created_at", "seconds": 3600}),
        "output_expires_after",
        400,
    ),
    ("/v1/batches", batch(priority=1), "priority", 400),
    ("/v1/datasets", {}, "name", 400),
    ("/v1/datasets", data(name=""), "name", 400),
    ("/v1/datasets", data(name="a/b"), "name", 400),
    ("/v1/datasets", data(name=".."), "name", 400),
    ("/v1/datasets", data(name=" a"), "name", 400),
    ("/v1/datasets", data(name="x" * 129), "name", 400),
    ("/v1/datasets", data(file_id="file-nobody"), "file_id", 404),
    ("/v1/datasets", data(recipe="default"), "recipe", 400),
    ("/v1/datasets", data(recipe={"steps": [{"op": "explode"}]}), "recipe.steps[0]", 400),
    (
        "/v1/datasets",
        data(recipe={"steps": [{"op": "mask_pii", "params": {"type": []}}]}),
        "recipe.steps[0]",
        400,
    ),
    ("/v1/training/jobs", {"type": "pretrain", "name": "a b", "training_file": "dsv-good"}, "name", 400),
    ("/v1/training/jobs", {"type": "pretrain", "name": "m", "training_file": "dsv-good"}, "name", 409),
    (
        "/v1/training/jobs",
        {"type": "pretrain", "name": "n", "training_file": "file-batch"},
        "training_file",
        400,
    ),
    (
        "/v1/training/jobs",
        {"type": "pretrain", "name": "n", "training_file": "file-tune", "model": "nobody"},
        "model",
        404,
    ),
    (
        "/v1/training/jobs",
        {
            "type": "pretrain",
            "name": "n",
            "training_file": "file-tune",
            "model": "m",
            "hyperparameters": {"hidden_size": 64},
        },
        "hyperparameters.hidden_size",
        400,
    ),
    ("/v1/training/jobs", {"type": "dpo", "model": "m"}, "training_file", 400),
    (
        "/v1/training/jobs",
        {"type": "pretrain", "name": "n", "training_file": "dsv-good", "priority": 101},
        "priority",
        400,
    ),
    (
        "/v1/training/jobs",
        {"type": "pretrain", "name": "n", "training_file": "dsv-bad"},
        "training_file",
        400,
    ),
    (
        "/v1/training/jobs",
        {"type": "pretrain", "name": "n", "training_file": "dsv-good", "hyperparameters": {"layers": 10**6}},
        "hyperparameters.layers",
        400,
    ),
    *(
        (
            "/v1/training/jobs",
            {"type": "pretrain", "name": "n", "training_file": "dsv-alone", "hyperparameters": {name: value}},
            f"hyperparameters.{name}",
            400,
        )
        for name, value in (("early_stopping_patience", 2), ("keep_best", True))
    ),
    (
        "/v1/training/jobs",
        {
            "type": "pretrain",
            "name": "n",
            "training_file": "dsv-good",
            "hyperparameters": {"early_stopping_patience": 0},
        },
        "hyperparameters.early_stopping_patience",
        400,
    ),
    ("/v1/evaluations", {"model": "m"}, "dataset_version", 400),
    ("/v1/evaluations", {"model": "m", "dataset_version": "dsv-good", "limit": 0}, "limit", 400),
    ("/v1/evaluations", {"model": "x", "dataset_version": "dsv-good"}, "model", 404),
    ("/v1/jobs", {"kind": "train"}, "kind", 400),
    ("/v1/jobs", {"kind": "noop", "seconds": 1e9}, "seconds", 400),
    ("/v1/jobs", {"kind": "noop", "outcome": "explode"}, "outcome", 400),
    ("/v1/jobs/job_nobody/cancel", {}, "id", 404),
    ("/v1/webhooks", {"url": "https://example.com", "events": []}, "events", 400),
    ("/v1/webhooks", {"url": "https://example.com", "events": ["nothing"]}, "events[0]", 400),
    ("/v1/webhooks", {"url": "ftp://example.com", "events": ["job.failed"]}, "url", 400),
    ("/v1/webhooks", {"url": "http://u:p@example.com", "events": ["job.failed"]}, "url", 400),
    ("/v1/webhooks", {"url": "http://127.0.0.1/x", "events": ["job.failed"]}, "url", 400),
    ("/v1/webhooks", {"url": "http://[::1", "events": ["job.failed"]}, "url", 400),
    ("/v1/webhooks", {"url": "http://example.com:99999", "events": ["job.failed"]}, "url", 400),
]

GETS: list[tuple[str, str, int]] = [
    ("/v1/files?limit=0", "limit", 400),
    ("/v1/files?limit=10001", "limit", 400),
    ("/v1/files?limit=ten", "limit", 400),
    (f"{FT}?limit=101", "limit", 400),
    (f"{FT}?limit={'9' * 400}", "limit", 400),
    (f"{FT}?limit=-1", "limit", 400),
    (f"{FT}?after=ftjob-nobody", "after", 400),
    (f"{FT}?after={'x' * 300}", "after", 400),
    (f"{FT}?metadata=team", "metadata", 400),
    (f"{FT}/ftjob-nobody", "id", 404),
    (f"{FT}/{'x' * 1000}", "id", 404),
    (f"{FT}/ftjob-nobody/events?after=zzz", "after", 400),
    (f"{FT}/ftjob-nobody/checkpoints", "id", 404),
    ("/v1/files?after=file-nobody", "after", 400),
    ("/v1/files?after=%27;drop%20table%20x", "after", 400),
    ("/v1/files?order=sideways", "order", 400),
    ("/v1/files?after=a%00b", "url", 400),
    ("/v1/files/a%00b", "url", 400),
    ("/v1/files/%ff%fe", "file_id", 404),
    ("/v1/files/..%2f..%2fetc%2fpasswd", None, 404),  # type: ignore[list-item]
    ("/v1/batches?after=ftjob-1", "after", 400),
    ("/v1/batches/batch_nobody", "id", 404),
    ("/v1/models/nobody", "model", 404),
    ("/v1/datasets/nobody", "name", 404),
    ("/v1/datasets/service/versions/dsv-nobody", "version_id", 404),
    ("/v1/jobs?status=happy", "status", 400),
    ("/v1/jobs/job_nobody/events", "id", 404),
    ("/v1/jobs/job_nobody/events?after=1e3", "after", 400),
    ("/v1/usage?start_date=yesterday", "start_date", 400),
    ("/v1/usage?start_date=0001-01-01&end_date=9999-12-31", "start_date", 400),
    ("/v1/usage?end_date=0001-01-01", None, 200),  # type: ignore[list-item]
    ("/v1/traces/nothing", "trace_id", 404),
    ("/v1/traces?after=00", "after", 400),
    ("/v1/alerts?open=perhaps", "open", 400),
    ("/v1/webhooks/whe_nobody", "endpoint_id", 404),
    ("/" + "x" * 3000, None, 404),  # type: ignore[list-item]
]


def check(response: Any, place: str | None, status: int) -> None:
    assert response.status_code == status, response.text
    if status < 400:
        return
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "trace_id"}
    assert error["trace_id"] == response.headers["x-trace-id"]
    if place is not None:
        assert error["param"] is not None, error
        assert error["param"].startswith(place), error
    assert "Traceback" not in response.text
    assert len(response.content) < 3000, "an error says back what was sent, at any length"


@pytest.mark.parametrize(("path", "body", "place", "status"), POSTS)
def test_a_malformed_body_is_refused_by_place(
    gateway: RunningGateway, path: str, body: Any, place: str, status: int
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with gateway.http() as client:
        response = client.post(path, content=content, headers={"content-type": "application/json"})
    check(response, place, status)


@pytest.mark.parametrize(("path", "place", "status"), GETS)
def test_a_malformed_address_is_refused_by_place(
    gateway: RunningGateway, path: str, place: str, status: int
) -> None:
    with gateway.http() as client:
        check(client.get(path), place, status)


@pytest.mark.parametrize(
    ("headers", "place", "status"),
    [
        ({"content-type": "text/plain"}, "Content-Type", 415),
        ({"content-encoding": "gzip"}, "Content-Encoding", 415),
        ({"idempotency-key": "x" * 256}, "Idempotency-Key", 400),
        ({"idempotency-key": ""}, "Idempotency-Key", 400),
    ],
)
def test_a_malformed_header_is_refused_by_name(
    gateway: RunningGateway, headers: dict[str, str], place: str, status: int
) -> None:
    with gateway.http() as client:
        response = client.post("/v1/jobs", content=b'{"kind": "noop"}', headers=headers)
    check(response, place, status)


@pytest.mark.parametrize(
    ("sent", "code", "status"),
    [
        (b"nothing of the kind\r\n\r\n", "invalid_http", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", "invalid_http", 400),
        (b"GET /v1/files/\xff HTTP/1.1\r\nHost: x\r\n\r\n", "invalid_http", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nA\x00B: c\r\n\r\n", "invalid_http", 400),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", "invalid_http", 400),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "invalid_http", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 70_000, "headers_too_large", 431),
        (b"GET /" + b"x" * 70_000, "headers_too_large", 431),
    ],
)
def test_what_is_no_http_is_refused_in_the_same_shape(
    gateway: RunningGateway, sent: bytes, code: str, status: int
) -> None:
    where = urlsplit(gateway.url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=20) as connection:
        connection.sendall(sent)
        answer = HTTPResponse(connection)
        answer.begin()
        error = json.loads(answer.read())["error"]
        assert (answer.status, error["code"]) == (status, code)
        assert set(error) == {"message", "type", "param", "code", "trace_id"}
        assert error["trace_id"] == answer.headers["x-trace-id"]
        assert answer.headers["x-request-id"].startswith("req_")
        assert connection.recv(1) == b"", "the connection stays open"


def test_a_method_that_a_path_lacks_is_refused_with_those_that_it_has(gateway: RunningGateway) -> None:
    with gateway.http() as client:
        for path, methods in (
            ("/v1/files", "GET, POST"),
            ("/v1/files/file-tune", "DELETE, GET"),
            (f"{FT}/x/cancel", "POST"),
            ("/v1/webhooks/x", "DELETE, GET, POST"),
        ):
            for method in ("PUT", "OPTIONS", "BREW"):
                response = client.request(method, path)
                check(response, None, 405)
                assert response.headers["allow"] == methods
            assert client.head(path).status_code == 405
        for path in ("/v1/files/", "/healthz/", "//v1/files", "/v1/files/x/content/"):
            check(client.get(path), None, 404)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ("bytes=2-4", 206),
        ("bytes=-3", 206),
        ("bytes=8-99", 206),
        ("bytes=0-0, -1", 206),
        ("bytes=10-", 416),
        ("bytes=-0", 416),
        ("bytes=0-1,20-30", 416),
        ("bytes=a-b", 400),
        ("bytes=", 400),
        ("bytes=-", 400),
        ("bytes=1", 400),
        ("bytes=4-2", 400),
        ("bytes=" + "9" * 5000 + "-", 400),
        ("lines=1-2", 400),
    ],
)
def test_a_range_that_a_file_lacks_is_refused_in_the_same_shape(
    gateway: RunningGateway, asked: str, status: int
) -> None:
    with gateway.http() as client:
        file = client.post(
            "/v1/files", files={"file": ("a", b"0123456789")}, data={"purpose": "user_data"}
        ).json()
        response = client.get(f"/v1/files/{file['id']}/content", headers={"range": asked})
        check(response, "Range", status)
        if status == 416:
            assert response.headers["content-range"] == "bytes */10"


def part(name: str, value: bytes, filename: str | None = None, end: bytes = b"--b--\r\n") -> bytes:
    quoted = f'; filename="{filename}"' if filename is not None else ""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{quoted}\r\n\r\n'
    return head.encode() + value + b"\r\n" + end


FILE = part("file", b"{}", "a.jsonl", b"")
PURPOSE = part("purpose", b"batch")


@pytest.mark.parametrize(
    ("body", "place", "status"),
    [
        (b"", "body", 400),
        (b"nothing of the kind", "body", 400),
        (PURPOSE, "file", 400),
        (part("file", b"{}", "a.jsonl"), "purpose", 400),
        (FILE + part("purpose", b"world domination"), "purpose", 400),
        (FILE + part("purpose", b"batch_output"), "purpose", 400),
        (FILE + part("purpose", b"\xff"), "body", 400),
        (FILE + part("purpose", b"bat\x00ch"), "body", 400),
        (FILE + FILE + PURPOSE, "file", 400),
        (part("file", b"{}", None, b"") + PURPOSE, "file", 400),
        (part("file", b"", "a.jsonl", b"") + PURPOSE, "file", 400),
        (part("file", b"{}", "", b"") + PURPOSE, "file", 400),
        (part("file", b"{}", "x" * 300, b"") + PURPOSE, "file", 400),
        (part("file", b"x" * 6000, "a.jsonl", b"") + PURPOSE, "file", 413),
        (part("other", b"{}", "a.jsonl", b"") + PURPOSE, "other", 400),
        (FILE + part("colour", b"red", None, b"") + PURPOSE, "colour", 400),
        (FILE + part("purpose", b"batch", None, b"") + PURPOSE, "purpose", 400),
        (FILE + part("purpose", b"x" * 70_000), "purpose", 400),
        (FILE + part("expires_after[anchor]", b"now", None, b"") + PURPOSE, "expires_after[anchor]", 400),
        (
            FILE
            + part("expires_after[anchor]", b"created_at", None, b"")
            + part("expires_after[seconds]", b"60", None, b"")
            + PURPOSE,
            "expires_after[seconds]",
            400,
        ),
        (FILE + part("purpose", b"batch", None, b""), "body", 400),
        (
            FILE.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1) + PURPOSE,
            "body",
            400,
        ),
    ],
)
def test_a_malformed_upload_is_refused_by_place(
    gateway: RunningGateway, body: bytes, place: str, status: int
) -> None:
    with gateway.http() as client:
        response = client.post(
            "/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=b"}
        )
    check(response, place, status)


@pytest.mark.parametrize(
    ("headers", "place", "status"),
    [
        ({"content-encoding": "gzip"}, "Content-Encoding", 415),
        ({"content-type": "application/json"}, "Content-Type", 415),
        ({"content-type": "multipart/form-data"}, "Content-Type", 415),
    ],
)
def test_an_upload_that_is_none_is_refused_by_header(
    gateway: RunningGateway, headers: dict[str, str], place: str, status: int
) -> None:
    sent = {"content-type": "multipart/form-data; boundary=b", **headers}
    with gateway.http() as client:
        check(client.post("/v1/files", content=FILE + PURPOSE, headers=sent), place, status)


def test_an_upload_over_the_cap_is_refused_before_it_is_read_whole(gateway: RunningGateway) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(400):
            yield b"x" * 65536

    with gateway.http() as client:
        response = client.post(
            "/v1/files", content=endless(), headers={"content-type": "multipart/form-data; boundary=b"}
        )
    check(response, "file", 413)
    incoming = gateway.platform.artifacts.root / "incoming"
    assert list(incoming.iterdir()) == []


def test_nothing_was_harmed(gateway: RunningGateway) -> None:
    with gateway.http() as client:
        assert client.get("/v1/jobs").json()["data"] == []
        assert client.get("/readyz").status_code == 200
