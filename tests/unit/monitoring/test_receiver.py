"""The OTLP receiver over real HTTP on loopback, with a list in the place of Postgres."""

from __future__ import annotations

import gzip
import http.client
import socket
from collections.abc import Iterator

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from services.monitoring.otlp import SpanRow
from services.monitoring.receiver import MAX_BODY, MAX_UNPACKED, Receiver
from shared.errors import ConfigurationError, Unavailable
from shared.telemetry import Tracing

TOKEN = "test-token-of-the-receiver"
PROTOBUF = "application/x-protobuf"


class Kept:
    """What was stored; drops or fails on request."""

    def __init__(self) -> None:
        self.rows: list[SpanRow] = []
        self.drops = 0
        self.fails = False

    def store(self, rows: list[SpanRow]) -> int:
        if self.fails:
            raise Unavailable("Postgres does not answer")
        self.rows.extend(rows)
        return self.drops


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def receiver(kept: Kept) -> Iterator[Receiver]:
    one = Receiver("127.0.0.1", 0, TOKEN, kept.store)
    one.start()
    yield one
    one.stop()


def post(
    receiver: Receiver, body: bytes = b"", path: str = "/v1/traces", **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(receiver.address, timeout=10)
    sent = {"Authorization": f"Bearer {TOKEN}", "Content-Type": PROTOBUF}
    sent |= {key.replace("_", "-"): value for key, value in headers.items()}
    connection.request("POST", path, body, sent)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data


def one_span(**values: object) -> bytes:
    whole = ExportTraceServiceRequest()
    base: dict[str, object] = {"trace_id": b"\x01" * 16, "span_id": b"\x02" * 8, "start_time_unix_nano": 1}
    whole.resource_spans.add().scope_spans.add().spans.add(**{**base, **values})
    return whole.SerializeToString()


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_what_the_sdk_exports_arrives(receiver: Receiver, kept: Kept, compression: Compression) -> None:
    exporter = OTLPSpanExporter(
        f"http://{receiver.address}/v1/traces",
        headers={"authorization": f"Bearer {TOKEN}"},
        compression=compression,
    )
    tracing = Tracing("gateway", exporter=exporter)
    with tracing.span("POST /v1/chat/completions", kind="server") as root:
        tracing.start("send q", kind="producer", parent=root.traceparent, links=[root.traceparent]).end()
    tracing.shutdown()
    by_name = {row.name: row for row in kept.rows}
    assert by_name["send q"].parent_id == by_name["POST /v1/chat/completions"].span_id
    assert by_name["send q"].links[0]["span_id"] == by_name["POST /v1/chat/completions"].span_id
    assert {(row.trace_id, row.service) for row in kept.rows} == {(root.trace_id, "gateway")}


def test_our_own_tracing_reaches_it_with_endpoint_and_token(receiver: Receiver, kept: Kept) -> None:
    tracing = Tracing("worker", endpoint=f"http://{receiver.address}", token=TOKEN)
    tracing.start("alone").end()
    tracing.shutdown()
    assert [row.name for row in kept.rows] == ["alone"]


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"])
def test_without_the_token_nothing_is_taken(receiver: Receiver, kept: Kept, authorization: str) -> None:
    status, body = post(receiver, one_span(), Authorization=authorization)
    assert (status, kept.rows) == (401, [])
    assert TOKEN.encode() not in body


def test_a_receiver_without_a_token_is_refused(kept: Kept) -> None:
    with pytest.raises(ConfigurationError, match="HELIU_OTLP_TOKEN"):
        Receiver("127.0.0.1", 0, "", kept.store)


def test_a_port_in_use_is_a_configuration_error(receiver: Receiver, kept: Kept) -> None:
    port = int(receiver.address.rpartition(":")[2])
    with pytest.raises(ConfigurationError, match="HELIU_OTLP_PORT"):
        Receiver("127.0.0.1", port, TOKEN, kept.store)


def test_an_empty_export_is_fine(receiver: Receiver, kept: Kept) -> None:
    assert post(receiver) == (200, b"")
    assert kept.rows == []


def test_refused_and_dropped_spans_are_told(receiver: Receiver, kept: Kept) -> None:
    kept.drops = 2
    status, body = post(receiver, one_span(trace_id=b"\x00" * 16))
    assert status == 200
    assert ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans == 3


def test_an_unavailable_store_asks_the_sender_to_come_again(receiver: Receiver, kept: Kept) -> None:
    kept.fails = True
    assert post(receiver, one_span())[0] == 503


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/metrics", b"", {}, 404),
        ("/v1/traces?x=1", b"", {}, 404),
        ("/v1/traces", b"{}", {"Content_Type": "application/json"}, 415),
        ("/v1/traces", b"\xff\xff\xff", {}, 400),
        ("/v1/traces", b"no gzip", {"Content_Encoding": "gzip"}, 400),
        ("/v1/traces", b"", {"Content_Encoding": "zstd"}, 400),
        ("/v1/traces", gzip.compress(b"\x00" * (MAX_UNPACKED + 1)), {"Content_Encoding": "gzip"}, 413),
        ("/v1/traces", b"", {"Content_Length": str(MAX_BODY + 1)}, 413),
        ("/v1/traces", b"", {"Content_Length": "9" * 30}, 413),
        ("/v1/traces", b"", {"Content_Length": "-1"}, 400),
        ("/v1/traces", b"", {"Content_Length": "٣"}, 400),
    ],
)
def test_bad_requests_are_refused_by_their_kind(
    receiver: Receiver, kept: Kept, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    sent = {key: value.encode().decode("latin-1") for key, value in headers.items()}
    assert post(receiver, body, path, **sent)[0] == status
    assert kept.rows == []


def test_other_methods_are_refused(receiver: Receiver) -> None:
    connection = http.client.HTTPConnection(receiver.address, timeout=10)
    connection.request("GET", "/v1/traces")
    assert connection.getresponse().status == 501
    connection.close()


def test_a_sender_that_hangs_up_leaves_the_others_alone(receiver: Receiver, kept: Kept) -> None:
    host, _, port = receiver.address.rpartition(":")
    with socket.create_connection((host, int(port))) as broken:
        broken.sendall(
            f"POST /v1/traces HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: {PROTOBUF}\r\n"
            "Content-Length: 100\r\n\r\nhalf".encode()
        )
    assert post(receiver, one_span())[0] == 200
    assert len(kept.rows) == 1
