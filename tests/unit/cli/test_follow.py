"""The command line reads a stream that can be taken up again, over as many connections as it takes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from services.cli import client
from services.cli.client import Client
from shared.errors import HeliuError, Unavailable


class Server(ThreadingHTTPServer):
    """Says five numbers, `each` on a connection; breaks it off then."""

    daemon_threads = True
    each, error = 2, ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        last = self.headers.get("last-event-id")
        self.server.asked.append(last)
        begin = int(last or 0)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for number in range(begin + 1, min(5, begin + self.server.each) + 1):
            self.wfile.write(f"id: {number}\ndata: {json.dumps({'said': number})}\n\n".encode())
        if self.server.error:
            told = {"error": {"message": "made again", "code": self.server.error}}
            self.wfile.write(f"data: {json.dumps(told)}\n\n".encode())
        elif begin + self.server.each >= 5:
            self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(client, "PAUSE_S", 0.001)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def read(server: Server) -> list[int]:
    found = Client(f"http://127.0.0.1:{server.server_address[1]}", "key").follow("/v1/x")
    return [chunk["said"] for chunk in found]


def test_a_stream_that_breaks_off_goes_on_behind_what_came(server: Server) -> None:
    assert read(server) == [1, 2, 3, 4, 5]
    assert server.asked == [None, "2", "4"]


def test_a_stream_that_says_nothing_more_is_given_up(server: Server) -> None:
    server.each = 0
    with pytest.raises(Unavailable, match="broke off"):
        read(server)
    assert len(server.asked) == client.TRIES


def test_a_gateway_that_stops_is_no_end(server: Server) -> None:
    server.error, server.each = "gateway_stopping", 0
    with pytest.raises(Unavailable):
        read(server)
    assert len(server.asked) == client.TRIES


def test_an_error_in_the_stream_is_told_and_not_tried_again(server: Server) -> None:
    server.error = "answer_restarted"
    with pytest.raises(HeliuError) as caught:
        read(server)
    assert (caught.value.code, server.asked) == ("answer_restarted", [None])
