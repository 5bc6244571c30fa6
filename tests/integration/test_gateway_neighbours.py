"""One client that stalls, floods or leaves harms nobody else, and hears in the one shape what went wrong."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.gateway.main import UPLOADS, UPLOADS_EACH
from tests.integration.gateway_app import RunningGateway, running_gateway

UPLOAD = {"file": ("a.jsonl", b"{}\n")}
MULTIPART = "multipart/form-data; boundary=b"
JSON = "application/json"


@pytest.fixture
def gateway(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(database_url, redis_url, tmp_path, body_silence_seconds=600) as running:
        yield running


def begin(gateway: RunningGateway, path: str, media: str, start: bytes, key: str = "acme") -> socket.socket:
    """A connection that has promised a body of 1000 bytes, and sent only `start` of it."""
    where = urlsplit(gateway.url)
    connection = socket.create_connection((where.hostname or "", where.port or 0), timeout=20)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.keys[key]}\r\n"
        f"Content-Type: {media}\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
    )
    connection.sendall(head.encode() + start)
    return connection


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], dict[str, str | None]]:
    """(status, headers, error) of what comes until the other side closes."""
    said = b""
    while more := connection.recv(65536):
        said += more
    if said.startswith(b"HTTP/1.1 100"):
        said = said.partition(b"\r\n\r\n")[2]
    head, _, body = said.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, json.loads(body)["error"]


def test_the_stalled_uploads_of_one_tenant_leave_room_for_anothers(gateway: RunningGateway) -> None:
    with ExitStack() as stack:
        stalled = [
            stack.enter_context(begin(gateway, "/v1/files", MULTIPART, b"--b\r\n"))
            for _ in range(UPLOADS + 8)
        ]
        # "100 Continue" says that somebody waits for the body: as many as a tenant may have do.
        read: set[socket.socket] = set()
        deadline = time.monotonic() + 20
        while len(read) < UPLOADS_EACH and time.monotonic() < deadline:
            read |= set(select.select(stalled, [], [], 1)[0])
        assert len(read) >= UPLOADS_EACH
        with gateway.http("rival") as rival:
            assert rival.post("/v1/files", files=UPLOAD, data={"purpose": "batch"}).status_code == 200
    with gateway.http() as acme:
        # The stalled ones have gone: their own tenant gets its turn again.
        assert acme.post("/v1/files", files=UPLOAD, data={"purpose": "batch"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "media", "start"),
    [("/v1/files", MULTIPART, b"--b\r\n"), ("/v1/jobs", JSON, b'{"kind":'), ("/v1/jobs", JSON, b"")],
)
def test_a_body_that_stops_coming_is_given_up(
    database_url: str, redis_url: str, tmp_path: Path, path: str, media: str, start: bytes
) -> None:
    with (
        running_gateway(database_url, redis_url, tmp_path, body_silence_seconds=0.2) as gateway,
        begin(gateway, path, media, start) as connection,
    ):
        status, headers, error = answer_of(connection)
    assert (status, error["code"], error["param"]) == (408, "request_timeout", "body")
    assert error["trace_id"] == headers["x-trace-id"]


@pytest.mark.parametrize("start", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_that_never_asks_is_given_up(
    database_url: str, redis_url: str, tmp_path: Path, start: bytes
) -> None:
    with running_gateway(database_url, redis_url, tmp_path, body_silence_seconds=0.2) as gateway:
        where = urlsplit(gateway.url)
        with socket.create_connection((where.hostname or "", where.port or 0), timeout=20) as connection:
            connection.sendall(start)
            status, headers, error = answer_of(connection)
            assert (status, error["code"]) == (408, "request_timeout")
            assert error["trace_id"] == headers["x-trace-id"]
        with gateway.http() as client:
            assert client.get("/v1/jobs").status_code == 200
