"""OTLP trace export requests as rows of spans: bytes in, values out. Knows no HTTP and no SQL.

Format: https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from shared import semconv
from shared.errors import InvalidInput

MAX_TEXT = 8192
MAX_ITEMS = 128
MAX_DEPTH = 8
MAX_TIME = 2**63 - 1
SERVICE_PREFIX = "heliu-"

KINDS = {
    Span.SPAN_KIND_SERVER: "server",
    Span.SPAN_KIND_CLIENT: "client",
    Span.SPAN_KIND_PRODUCER: "producer",
    Span.SPAN_KIND_CONSUMER: "consumer",
}
STATUSES = {Status.STATUS_CODE_OK: "ok", Status.STATUS_CODE_ERROR: "error"}


@dataclass(frozen=True)
class SpanRow:
    """One span. Ids are lower-case hex, times unix nanoseconds; `service` is without the `heliu-` before it."""

    trace_id: str
    span_id: str
    parent_id: str | None
    tenant_id: str | None
    service: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    status: str
    status_message: str | None
    attributes: dict[str, Any]
    events: list[dict[str, Any]]
    links: list[dict[str, Any]]

    def dump(self) -> dict[str, Any]:
        return asdict(self)


class TooLarge(InvalidInput):
    """A request over the receiver's caps."""

    code = "too_large"


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """`body` without its Content-Encoding; raises TooLarge past `limit` bytes, InvalidInput for another encoding."""
    if encoding in ("", "identity"):
        unpacked = body
    elif encoding == "gzip":
        reader = zlib.decompressobj(wbits=31)
        try:
            unpacked = reader.decompress(body, limit + 1)
        except zlib.error as exc:
            raise InvalidInput(f"the body is not gzip: {exc}", param="body") from exc
        if len(unpacked) <= limit and not reader.eof:
            raise InvalidInput("the gzip body ends too early", param="body")
    else:
        raise InvalidInput(
            f"Content-Encoding {encoding!r} is not known; send gzip or none", param="Content-Encoding"
        )
    if len(unpacked) > limit:
        raise TooLarge(f"the body is larger than {limit} bytes; export smaller batches", param="body")
    return unpacked


def decode(body: bytes) -> tuple[list[SpanRow], int]:
    """(spans, how many were refused for ids or times that cannot be). Raises InvalidInput for other bytes."""
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError as exc:
        raise InvalidInput(f"the body is no OTLP ExportTraceServiceRequest: {exc}", param="body") from exc
    rows: list[SpanRow] = []
    refused = 0
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        service = str(resource.get("service.name", "unknown")).removeprefix(SERVICE_PREFIX)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                row = _row(span, service)
                if row is None:
                    refused += 1
                else:
                    rows.append(row)
    return rows, refused


def answer(refused: int, why: str = "") -> bytes:
    """The OTLP response: what was refused, which the sender must not send again."""
    response = ExportTraceServiceResponse()
    if refused:
        response.partial_success.rejected_spans = refused
        response.partial_success.error_message = why
    encoded: bytes = response.SerializeToString()
    return encoded


def _row(span: Span, service: str) -> SpanRow | None:
    trace_id, span_id, parent_id = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
    if len(trace_id) != 32 or len(span_id) != 16 or not int(trace_id, 16) or not int(span_id, 16):
        return None
    if len(parent_id) not in (0, 16) or not 0 < span.start_time_unix_nano <= MAX_TIME:
        return None
    attributes = _attributes(span.attributes)
    return SpanRow(
        trace_id=trace_id,
        span_id=span_id,
        parent_id=parent_id or None,
        tenant_id=_tenant(attributes.get(semconv.TENANT)),
        service=service,
        name=_text(span.name),
        kind=KINDS.get(span.kind, "internal"),
        start_ns=span.start_time_unix_nano,
        end_ns=min(max(span.start_time_unix_nano, span.end_time_unix_nano), MAX_TIME),
        status=STATUSES.get(span.status.code, "unset"),
        status_message=_text(span.status.message) or None,
        attributes=attributes,
        events=[
            {
                "name": _text(event.name),
                "time_ns": event.time_unix_nano,
                "attributes": _attributes(event.attributes),
            }
            for event in span.events[:MAX_ITEMS]
        ],
        links=[
            {
                "trace_id": link.trace_id.hex(),
                "span_id": link.span_id.hex(),
                "attributes": _attributes(link.attributes),
            }
            for link in span.links[:MAX_ITEMS]
        ],
    )


def _tenant(value: Any) -> str | None:
    try:
        return str(UUID(str(value))) if value is not None else None
    except ValueError:
        return None


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        if len(found) >= MAX_ITEMS:
            break
        found[_text(pair.key)] = _value(pair.value, MAX_DEPTH)
    return found


def _value(value: AnyValue, depth: int) -> Any:
    """The value as JSON holds it: bytes in base64, numbers that JSON does not know as text."""
    which = value.WhichOneof("value")
    if which is None or depth == 0:
        return None
    if which == "array_value":
        return [_value(item, depth - 1) for item in value.array_value.values[:MAX_ITEMS]]
    if which == "kvlist_value":
        items = value.kvlist_value.values[:MAX_ITEMS]
        return {_text(item.key): _value(item.value, depth - 1) for item in items}
    if which == "bytes_value":
        return _text(base64.b64encode(value.bytes_value[:MAX_TEXT]).decode())
    plain = getattr(value, which)
    if isinstance(plain, str):
        return _text(plain)
    if isinstance(plain, float) and not math.isfinite(plain):
        return str(plain)
    return plain


def _text(text: str) -> str:
    """At most MAX_TEXT characters, and no NUL, which Postgres cannot store."""
    return text[:MAX_TEXT].replace("\x00", "\ufffd")
