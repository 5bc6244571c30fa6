"""One trace over real processes: the gateway, the queue, a worker, the receiver, and back to the terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from deploy.embedded import free_port
from tests.e2e.topology import disconnected, missing_edges
from tests.harness import ROOT, Harness, platform


@pytest.fixture
def running(database_url: str, redis_url: str) -> Iterator[tuple[Harness, str]]:
    """Gateway and monitoring, without a dispatcher: every doorbell is the gateway's own."""
    port = free_port()
    settings = {
        "HELIU_OTLP_PORT": str(port),
        "HELIU_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "HELIU_OTLP_TOKEN": "the-token-of-this-test",
    }
    with platform(database_url, redis_url, **settings) as harness:
        harness.start("monitoring")
        yield harness, harness.start_gateway()


def heliu(address: str, key: str, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {"HELIU_GATEWAY_URL": address, "HELIU_API_KEY": key, "PATH": "/usr/bin:/bin", "PYTHONUTF8": "1"}
    argv = [sys.executable, "-m", "services.cli.main", *words]
    return subprocess.run(
        argv, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_job_is_one_connected_trace_from_gateway_to_worker_in_the_terminal(
    running: tuple[Harness, str],
) -> None:
    harness, address = running
    key = harness.key()
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=address, headers=headers) as client:
        answer = client.post("/v1/jobs", json={"kind": "noop", "steps": 2})
        assert answer.status_code == 200, answer.text
        job, trace_id = answer.json()["id"], answer.headers["x-trace-id"]
    assert harness.wait_job(job).state == "succeeded"
    assert harness.job(job).trace_id == trace_id

    def spans() -> list[dict[str, object]]:
        shown = heliu(address, key, "traces", "show", trace_id, "--json", "--wait", "30")
        assert shown.returncode == 0, shown.stderr
        found: list[dict[str, object]] = json.loads(shown.stdout)["spans"]
        return found

    # The worker's spans and the gateway's come in exports of their own, half a second apart.
    for _ in range(30):
        seen = spans()
        if not missing_edges(seen, ["noop"], doorbells=True):
            break
    assert missing_edges(seen, ["noop"], doorbells=True) == []
    assert disconnected(seen) == []

    drawn = heliu(address, key, "traces", "show", trace_id)
    assert drawn.returncode == 0
    assert "process monitoring" in drawn.stdout
    assert "attempt 1" in drawn.stdout
    assert "waited " in drawn.stdout
    listed = heliu(address, key, "traces", "list", "--name", "POST /v1/jobs")
    assert trace_id in listed.stdout


def test_a_stranger_sees_no_trace_of_anothers(running: tuple[Harness, str]) -> None:
    harness, address = running
    operator = {"Authorization": f"Bearer {harness.key('operator')}"}
    with httpx.Client(base_url=address) as client:
        assert client.post("/v1/tenants", json={"name": "other"}, headers=operator).status_code == 200
        made = client.post("/v1/keys", json={"name": "k", "tenant": "other"}, headers=operator).json()
        theirs = client.post(
            "/v1/jobs", json={"kind": "noop"}, headers={"Authorization": f"Bearer {harness.key()}"}
        )
    trace_id = theirs.headers["x-trace-id"]
    assert heliu(address, harness.key(), "traces", "show", trace_id, "--wait", "30").returncode == 0
    hidden = heliu(address, made["key"], "traces", "show", trace_id, "--wait", "0")
    assert (hidden.returncode, hidden.stdout) == (5, "")
