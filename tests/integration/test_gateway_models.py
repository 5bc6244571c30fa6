"""Content by hash and what an import is made of, on a real gateway without a worker; and `heliu models add` over it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from services.cli import model_folder
from services.cli.main import app
from shared.errors import HeliuError
from tests.integration.gateway_app import RunningGateway, running_gateway
from tests.unit.inference.test_inspection import header

WEIGHTS = header(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}) + b"abcd"


@pytest.fixture
def gateway(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(database_url, redis_url, tmp_path / "home", max_model_bytes=10**6) as running:
        yield running


def blob_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def put(
    http: httpx.Client, content: bytes, *, whole: bytes | None = None, offset: int = 0, **query: Any
) -> httpx.Response:
    """Send `content`, which is `whole` or the part of it that begins at `offset`."""
    whole = content if whole is None else whole
    return http.put(
        f"/v1/blobs/{blob_of(whole)}",
        params={"size": len(whole), "offset": offset, **query},
        content=content,
        headers={"content-type": "application/octet-stream"},
    )


def listing(**files: bytes) -> list[dict[str, Any]]:
    names = {name.replace("__", "."): content for name, content in files.items()}
    return [{"path": n, "object": blob_of(c), "bytes": len(c)} for n, c in names.items()]


def refused(http: httpx.Client, **body: Any) -> tuple[int, str, str]:
    answer = http.post("/v1/models", json={"name": "m", **body})
    error = answer.json().get("error", {})
    return answer.status_code, error.get("code", ""), error.get("message", "")


def test_content_comes_in_parts_and_counts_when_its_hash_is_right(gateway: RunningGateway) -> None:
    content = os.urandom(5000)
    address = f"/v1/blobs/{blob_of(content)}"
    with gateway.http() as http:
        assert http.get(address).status_code == 404
        first = put(http, content[:2000], whole=content).json()
        assert (first["received"], first["complete"]) == (2000, False)
        assert http.get(address).json()["received"] == 2000
        wrong = put(http, content[1000:], whole=content, offset=1000)
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (409, "offset_mismatch")
        assert "begin at offset 2000" in wrong.json()["error"]["message"]
        longer = put(http, content[2000:] + b"x", whole=content, offset=2000)
        assert (longer.status_code, longer.json()["error"]["param"]) == (400, "size")
        assert put(http, content[2000:], whole=content, offset=2000).json()["complete"] is True
        assert http.get(address).json() == {
            "id": blob_of(content),
            "object": "blob",
            "received": 5000,
            "bytes": 5000,
            "complete": True,
        }
        # Again is the same, whatever comes.
        assert put(http, b"", whole=content).json()["complete"] is True
    assert gateway.platform.artifacts.path(blob_of(content)).read_bytes() == content
    with gateway.http("rival") as rival:
        assert rival.get(address).status_code == 404


def test_content_that_is_not_its_hash_is_thrown_away(gateway: RunningGateway) -> None:
    content = os.urandom(500)
    with gateway.http() as http:
        answer = put(http, content[:-1] + bytes([content[-1] ^ 1]), whole=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "hash_mismatch")
        assert http.get(f"/v1/blobs/{blob_of(content)}").status_code == 404
        assert put(http, content).json()["complete"] is True
        assert put(http, b"").json()["complete"] is True
        large = put(http, b"x", size=10**6 + 1)
        assert (large.status_code, large.json()["error"]["code"]) == (413, "file_too_large")
        assert http.put("/v1/blobs/sha256:..%2f..%2fetc", params={"size": 1}, content=b"x").status_code in (
            400,
            404,
        )
        assert http.put(f"/v1/blobs/{blob_of(b'z')}", content=b"z").json()["error"]["param"] == "size"


def test_what_came_before_a_connection_broke_is_kept(gateway: RunningGateway) -> None:
    content = os.urandom(300_000)
    address = f"/v1/blobs/{blob_of(content)}"
    host, port = gateway.url.removeprefix("http://").split(":")
    head = (
        f"PUT {address}?size={len(content)} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {gateway.keys['acme']}"
        f"\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with gateway.http() as http:
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(head.encode() + content[:100_000])
            while (state := http.get(address)).status_code == 404:
                continue
        # The gateway hears of the break by itself; until then it holds the object.
        while True:
            received = http.get(address).json()["received"]
            answer = put(http, content[received:], whole=content, offset=received)
            if answer.status_code != 409:
                break
            assert answer.json()["error"]["code"] in ("upload_busy", "offset_mismatch")
        assert (state.json()["complete"], answer.json()["complete"], received > 0) == (False, True, True)


def test_an_import_is_made_of_what_its_tenant_has_sent(gateway: RunningGateway) -> None:
    files = listing(config__json=b"{}", model__safetensors=WEIGHTS)
    with gateway.http() as http, gateway.http("rival") as rival:
        for content in (b"{}", WEIGHTS):
            put(rival, content)
        assert refused(http, files=files)[:2] == (400, "blob_missing")
        put(http, b"{}")
        put(http, WEIGHTS)
        wrong = [files[0], {**files[1], "bytes": 3}]
        assert refused(http, files=wrong)[:2] == (400, "blob_missing")
        job = http.post("/v1/models", json={"name": "m", "files": files}).json()
        assert (job["kind"], job["queue"], job["status"]) == (
            "inference.import_model",
            "inference.default.import",
            "queued",
        )
        assert job["id"] in [one["id"] for one in http.get("/v1/jobs").json()["data"]]
        again = http.post(
            "/v1/models", json={"name": "m", "files": files}, headers={"idempotency-key": "k"}
        ).json()
        assert (
            http.post(
                "/v1/models", json={"name": "m", "files": files}, headers={"idempotency-key": "k"}
            ).json()["id"]
            == again["id"]
        )


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("pytorch_model.bin", "model_unsafe"),
        ("../config.json", "invalid_value"),
        ("/etc/passwd.json", "invalid_value"),
        ("a/../../b.json", "invalid_value"),
        ("modeling_evil.py", "invalid_value"),
        ("config\x00.json", "invalid_value"),
        ("x" * 300 + ".json", "invalid_value"),
        ("onnx/model.safetensors", "invalid_value"),
        (".hidden/config.json", "invalid_value"),
    ],
)
def test_a_file_that_is_no_models_is_refused_by_name(gateway: RunningGateway, path: str, code: str) -> None:
    files = listing(model__safetensors=WEIGHTS)
    with gateway.http() as http:
        put(http, WEIGHTS)
        status, got, message = refused(http, files=[*files, {**files[0], "path": path}])
        assert (status, got) == (400, code), message


def test_a_body_that_is_no_import_is_refused_with_what_would_be_right(gateway: RunningGateway) -> None:
    files = listing(config__json=b"{}", model__safetensors=WEIGHTS)
    adapter = listing(adapter_config__json=b"{}", adapter_model__safetensors=WEIGHTS)
    gateway.add_model("base")
    gateway.add_model("tuned", kind="adapter", base_id="base", base_artifact="sha256:" + "a" * 64)
    with gateway.http() as http:
        for content in (b"{}", WEIGHTS):
            put(http, content)
        assert "give files or hub_id" in refused(http)[2]
        assert "give files or hub_id" in refused(http, files=files, hub_id="a/b")[2]
        assert refused(http, hub_id="acme/tiny")[:2] == (400, "hub_disabled")
        assert refused(http, files=files, name="base")[:2] == (409, "model_exists")
        assert refused(http, files=files, name="a b")[0] == 400
        assert refused(http, files=files[:1])[0] == 400
        assert "listed twice" in refused(http, files=[*files, files[0]])[2]
        assert refused(http, files=[{**files[1], "bytes": 2**40}])[:2] == (413, "file_too_large")
        assert refused(http, files=[{**files[1], "object": "sha256:x"}])[0] == 400
        assert refused(http, files=files, kind="head")[0] == 400
        assert refused(http, files=adapter)[:2] == (400, "missing_required_parameter")
        assert refused(http, files=adapter, base="nobody")[:2] == (404, "model_not_found")
        assert "stands on a base" in refused(http, files=adapter, base="tuned")[2]


def test_a_model_that_is_needed_is_not_removed(gateway: RunningGateway) -> None:
    gateway.add_model("base")
    gateway.add_model("tuned", kind="adapter", base_id="base", base_artifact="sha256:" + "a" * 64)
    gateway.add_version("dsv-1")
    with gateway.http() as http:
        adapter = http.delete("/v1/models/base")
        assert (adapter.status_code, adapter.json()["error"]["code"]) == (409, "model_in_use")
        assert "adapters tuned" in adapter.json()["error"]["message"]
        job = http.post("/v1/evaluations", json={"model": "tuned", "dataset_version": "dsv-1"}).json()["id"]
        needed = http.delete("/v1/models/tuned")
        assert f"jobs {job} (training.evaluate)" in needed.json()["error"]["message"]
        http.post(f"/v1/jobs/{job}/cancel")
        lines = json.dumps({"custom_id": "1"}).encode()
        upload = {"file": ("b.jsonl", lines)}
        rows = http.post("/v1/files", files=upload, data={"purpose": "batch"}).json()["id"]
        window = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = http.post("/v1/batches", json={"input_file_id": rows, **window}).json()["id"]
        assert batch in http.delete("/v1/models/tuned").json()["error"]["message"]
        http.post(f"/v1/batches/{batch}/cancel")
        spec = {"model": "tuned", "prompt": "{{ input }}", "variables": {"input": {"type": "string"}}}
        task = http.post("/v1/tasks", json={"name": "reply", "spec": spec})
        assert task.status_code == 200, task.text
        assert "tasks reply" in http.delete("/v1/models/tuned").json()["error"]["message"]
        assert http.delete("/v1/tasks/reply").status_code == 200
        assert http.delete("/v1/models/tuned").json()["deleted"] is True
        assert http.delete("/v1/models/base").json()["deleted"] is True


class Heliu:
    """`heliu models ...` as the tenant acme; `said` is what went to stderr."""

    def __init__(self, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HELIU_GATEWAY_URL", gateway.url)
        monkeypatch.setenv("HELIU_API_KEY", gateway.keys["acme"])
        self.said = ""

    def models(self, *words: str) -> Any:
        result = CliRunner().invoke(app, ["models", *words, "--json"])
        self.said = result.stderr
        if isinstance(result.exception, HeliuError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture
def heliu(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> Heliu:
    return Heliu(gateway, monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tiny"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(WEIGHTS)
    (made / "pytorch_model.bin").write_bytes(b"\x80\x02")
    (made / "README.md").write_text("# tiny")
    return made


def test_a_folder_is_sent_once_and_what_is_not_needed_is_left_out(
    heliu: Heliu, gateway: RunningGateway, folder: Path
) -> None:
    job = heliu.models("add", str(folder), "--no-wait")
    assert job["kind"] == "inference.import_model"
    assert "left out: pytorch_model.bin (a pickle" in heliu.said
    assert "left out: README.md" in heliu.said
    with gateway.as_tenant() as c:
        row = c.execute("SELECT payload FROM core.job WHERE id = %s", (job["id"],)).fetchone()
    assert row is not None
    assert row["payload"]["name"] == "tiny"
    assert [f["path"] for f in row["payload"]["files"]] == ["config.json", "model.safetensors"]
    heliu.models("add", str(folder), "--name", "again", "--no-wait")
    assert heliu.said.count("there already") == 2


def test_a_large_file_goes_on_where_it_broke_off(
    heliu: Heliu, gateway: RunningGateway, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_folder, "PART", 1000)
    monkeypatch.setattr(model_folder, "CHUNK", 400)
    content = os.urandom(3500)
    (folder / "tokenizer.json").write_bytes(content)
    with gateway.http() as http:
        put(http, content[:700], whole=content)
    heliu.models("add", str(folder), "--no-wait")
    told = [line for line in heliu.said.splitlines() if line.startswith("tokenizer.json")]
    assert told == [f"tokenizer.json: {n} of 3500 bytes" for n in (1700, 2700, 3500)]
    assert gateway.platform.artifacts.path(blob_of(content)).read_bytes() == content


def test_what_cannot_be_added_is_told_before_anything_is_sent(
    heliu: Heliu, gateway: RunningGateway, folder: Path, tmp_path: Path
) -> None:
    def told(*words: str) -> str:
        with pytest.raises(HeliuError) as caught:
            heliu.models("add", *words)
        return caught.value.message

    assert "neither a folder here nor an id" in told("./nowhere")
    assert "imports from no hub" in told("acme/tiny")
    assert "--kind must be one of" in told(str(folder), "--kind", "head")
    assert "cannot be a model's name" in told(str(folder), "--name", "a b")
    (folder / "adapter_config.json").write_text("{}")
    assert "--base" in told(str(folder))
    (folder / "adapter_config.json").unlink()
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (folder / "vocab.json").symlink_to(secret)
    assert "outside of the folder" in told(str(folder))
    (folder / "vocab.json").unlink()
    (folder / "vocab.json").symlink_to(folder / "config.json")
    (folder / "model.safetensors").unlink()
    assert "only pickled weights (pytorch_model.bin)" in told(str(folder))
    with gateway.as_tenant() as c:
        assert c.execute("SELECT 1 FROM gateway.blob").fetchall() == []
