"""`heliu traces` and `heliu alerts` against a gateway that answers from a table."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from services.cli.main import main

TRACE = "ab" * 16
SPAN = {
    "object": "span",
    "id": "01" * 8,
    "trace_id": TRACE,
    "span_id": "01" * 8,
    "parent_id": None,
    "service": "gateway",
    "name": "POST /v1/jobs",
    "kind": "server",
    "start_ns": 10**18,
    "end_ns": 10**18 + 5_000_000,
    "status": "unset",
    "status_message": None,
    "attributes": {},
    "events": [],
    "links": [],
}
SHOWN = {"id": TRACE, "object": "trace", "services": ["gateway"], "spans": [SPAN], "jaeger": None}
ALERT = {
    "id": "alert_1",
    "object": "alert",
    "rule": "error_rate",
    "subject": "acme/base",
    "severity": "critical",
    "message": "40% failed",
    "value": 0.4,
    "threshold": 0.1,
    "trace_ids": [TRACE],
    "started_at": 1_900_000_000,
    "resolved_at": None,
}


class Gateway:
    """Answers GETs from `answers` (a list is used up, its last entry stays); takes note of what is asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, str | None]] = []
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                gateway.asked.append((self.path, self.headers["authorization"]))
                queue = gateway.answers.get(self.path.split("?")[0], [(404, _missing())])
                status, body = queue.pop(0) if len(queue) > 1 else queue[0]
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("x-trace-id", "cd" * 16)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _missing() -> dict[str, Any]:
    error = {"message": "no such trace", "type": "invalid_request_error", "code": "not_found", "param": None}
    return {"error": error}


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    one = Gateway()
    yield one
    one.close()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def heliu(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("HELIU_GATEWAY_URL", gateway.url)
    monkeypatch.setenv("HELIU_API_KEY", "hl_test")
    monkeypatch.delenv("HELIU_JAEGER_URL", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["heliu", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_show_draws_the_tree_with_the_key_of_the_environment(heliu: Run, gateway: Gateway) -> None:
    gateway.answers[f"/v1/traces/{TRACE}"] = [(200, SHOWN)]
    code, out, err = heliu("traces", "show", TRACE.upper())
    assert code == 0
    assert out.splitlines()[0] == "1 spans, 1 services (gateway), 5.0 ms"
    assert "POST /v1/jobs  gateway" in out
    assert err == ""
    assert gateway.asked == [(f"/v1/traces/{TRACE}", "Bearer hl_test")]


def test_show_as_json_is_what_the_gateway_said(heliu: Run, gateway: Gateway) -> None:
    gateway.answers[f"/v1/traces/{TRACE}"] = [(200, SHOWN)]
    code, out, _ = heliu("traces", "show", TRACE, "--json")
    assert (code, json.loads(out)) == (0, SHOWN)


def test_show_links_to_jaeger_where_there_is_one(
    heliu: Run, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.answers[f"/v1/traces/{TRACE}"] = [(200, {**SHOWN, "jaeger": f"http://theirs/trace/{TRACE}"})]
    assert f"http://theirs/trace/{TRACE}" in heliu("traces", "show", TRACE)[2]
    monkeypatch.setenv("HELIU_JAEGER_URL", "http://mine:16686/")
    assert f"http://mine:16686/trace/{TRACE}" in heliu("traces", "show", TRACE)[2]


def test_show_waits_for_a_trace_that_is_on_its_way(heliu: Run, gateway: Gateway) -> None:
    gateway.answers[f"/v1/traces/{TRACE}"] = [(404, _missing()), (200, SHOWN)]
    assert heliu("traces", "show", TRACE, "--wait", "30")[0] == 0
    assert len(gateway.asked) == 2


def test_an_unknown_trace_is_an_error_with_its_own_exit_code_and_trace(heliu: Run) -> None:
    code, out, err = heliu("traces", "show", "ff" * 16, "--wait", "0")
    assert (code, out) == (5, "")
    assert "no such trace" in err
    assert "cd" * 16 in err


def test_list_shows_one_line_a_trace(heliu: Run, gateway: Gateway) -> None:
    one = {
        "id": TRACE,
        "object": "trace",
        "name": "POST /v1/jobs",
        "service": "gateway",
        "start_ns": 10**18,
        "duration_ms": 1500.0,
        "status": "error",
        "spans": 12,
    }
    gateway.answers["/v1/traces"] = [(200, {"object": "list", "data": [one], "has_more": False})]
    code, out, _ = heliu("traces", "list", "--name", "POST /v1/jobs", "--limit", "5")
    assert code == 0
    assert out.startswith(TRACE)
    assert "1.50 s    12 spans  gateway: POST /v1/jobs" in out
    assert gateway.asked[0][0] == "/v1/traces?name=POST+%2Fv1%2Fjobs&limit=5"


def test_alerts_list_shows_what_stands_and_how_to_look_at_it(heliu: Run, gateway: Gateway) -> None:
    gateway.answers["/v1/alerts"] = [(200, {"object": "list", "data": [ALERT], "has_more": False})]
    code, out, _ = heliu("alerts", "list")
    assert code == 0
    assert "critical  error_rate: 40% failed" in out
    assert f"heliu traces show {TRACE}" in out
    assert gateway.asked[0][0] == "/v1/alerts?open=true&limit=20"


def test_alerts_list_all_asks_for_resolved_ones_too(heliu: Run, gateway: Gateway) -> None:
    resolved = {**ALERT, "resolved_at": 1_900_000_060, "trace_ids": []}
    gateway.answers["/v1/alerts"] = [(200, {"object": "list", "data": [resolved], "has_more": False})]
    assert "(resolved " in heliu("alerts", "list", "--all")[1]
    assert gateway.asked[0][0] == "/v1/alerts?limit=20"


def test_no_alerts_is_said_beside_the_data(heliu: Run, gateway: Gateway) -> None:
    gateway.answers["/v1/alerts"] = [(200, {"object": "list", "data": [], "has_more": False})]
    assert heliu("alerts", "list") == (0, "", "no alerts stand\n")


@pytest.mark.parametrize(
    ("id_", "asked"),
    [
        ("../keys", "/v1/jobs/..%2Fkeys"),
        ("..", "/v1/jobs/%2E%2E"),
        ("a?limit=1#b", "/v1/jobs/a%3Flimit%3D1%23b"),
    ],
)
def test_an_id_is_one_part_of_the_path_whatever_it_holds(
    heliu: Run, gateway: Gateway, id_: str, asked: str
) -> None:
    assert heliu("jobs", "show", id_)[0] == 5
    assert gateway.asked[0][0] == asked


def test_no_id_is_an_error_and_asks_nobody(heliu: Run, gateway: Gateway) -> None:
    assert "no id" in heliu("jobs", "show", "")[2]
    assert gateway.asked == []


@pytest.mark.parametrize(("status", "body"), [(200, ["not", "ours"]), (404, {"detail": "not ours"})])
def test_an_answer_of_somebody_else_is_an_error_that_names_the_address(
    heliu: Run, gateway: Gateway, status: int, body: object
) -> None:
    gateway.answers["/v1/files"] = [(status, body)]
    code, out, err = heliu("files", "list")
    assert code != 0
    assert out == ""
    assert err.startswith("error: ")
    assert "127.0.0.1" in err


@pytest.mark.parametrize(("key", "value"), [("HELIU_GATEWAY_URL", "http://[::1"), ("HELIU_API_KEY", "ключ")])
def test_a_setting_of_the_client_that_cannot_be_is_named(
    heliu: Run, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.setenv(key, value)
    code, _, err = heliu("files", "list")
    assert code == 3
    assert key in err
