"""Decoding OTLP: what the SDK sends, and what nobody should."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from services.monitoring import otlp
from services.monitoring.otlp import SpanRow, TooLarge, decode, unpack
from shared.errors import InvalidInput

TENANT = "8d7f6f4e-1111-4222-8333-444455556666"


def attribute(key: str, value: object) -> KeyValue:
    kinds = {
        str: "string_value",
        bool: "bool_value",
        int: "int_value",
        float: "double_value",
        bytes: "bytes_value",
    }
    if isinstance(value, AnyValue):
        return KeyValue(key=key, value=value)
    return KeyValue(key=key, value=AnyValue(**{kinds[type(value)]: value}))


def span(**values: object) -> Span:
    base: dict[str, object] = {
        "trace_id": b"\x01" * 16,
        "span_id": b"\x02" * 8,
        "name": "process data",
        "start_time_unix_nano": 1_000,
        "end_time_unix_nano": 2_000,
    }
    return Span(**{**base, **values})  # type: ignore[arg-type]


def request(*spans: Span, service: str = "heliu-gateway") -> bytes:
    whole = ExportTraceServiceRequest()
    part: ResourceSpans = whole.resource_spans.add()
    part.resource.attributes.append(attribute("service.name", service))
    part.scope_spans.add().spans.extend(spans)
    return whole.SerializeToString()


def one(**values: object) -> SpanRow:
    rows, refused = decode(request(span(**values)))
    assert refused == 0
    return rows[0]


def test_a_span_keeps_ids_times_kind_status_and_service() -> None:
    row = one(
        parent_span_id=b"\x03" * 8,
        kind=Span.SPAN_KIND_CONSUMER,
        status=Status(code=Status.STATUS_CODE_ERROR, message="broke"),
    )
    assert (row.trace_id, row.span_id, row.parent_id) == ("01" * 16, "02" * 8, "03" * 8)
    assert (row.service, row.name, row.kind) == ("gateway", "process data", "consumer")
    assert (row.start_ns, row.end_ns, row.status, row.status_message) == (1_000, 2_000, "error", "broke")


def test_a_root_has_no_parent_and_no_status_is_unset() -> None:
    row = one()
    assert (row.parent_id, row.status, row.status_message, row.kind) == (None, "unset", None, "internal")


def test_attributes_of_every_type_become_json() -> None:
    nested = AnyValue(
        kvlist_value=KeyValueList(
            values=[attribute("a", AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=1)])))]
        )
    )
    row = one(
        attributes=[
            attribute("s", "文"),
            attribute("i", 7),
            attribute("f", 0.5),
            attribute("b", True),
            attribute("raw", b"\x00\xff"),
            attribute("nan", float("nan")),
            attribute("none", AnyValue()),
            attribute("nested", nested),
        ]
    )
    assert row.attributes == {
        "s": "文",
        "i": 7,
        "f": 0.5,
        "b": True,
        "raw": "AP8=",
        "nan": "nan",
        "none": None,
        "nested": {"a": [1]},
    }


def test_events_and_links_are_kept() -> None:
    row = one(
        events=[Span.Event(name="first_token", time_unix_nano=1_500, attributes=[attribute("n", 1)])],
        links=[Span.Link(trace_id=b"\x09" * 16, span_id=b"\x08" * 8)],
    )
    assert row.events == [{"name": "first_token", "time_ns": 1_500, "attributes": {"n": 1}}]
    assert row.links == [{"trace_id": "09" * 16, "span_id": "08" * 8, "attributes": {}}]


def test_the_tenant_comes_from_its_attribute_and_only_as_a_uuid() -> None:
    assert one(attributes=[attribute("heliu.tenant", TENANT)]).tenant_id == TENANT
    assert one(attributes=[attribute("heliu.tenant", "'; DROP TABLE")]).tenant_id is None


def test_an_end_before_its_start_is_the_start() -> None:
    assert one(end_time_unix_nano=1).end_ns == 1_000


@pytest.mark.parametrize(
    "values",
    [
        {"trace_id": b""},
        {"trace_id": b"\x00" * 16},
        {"trace_id": b"\x01" * 15},
        {"span_id": b"\x00" * 8},
        {"span_id": b"\x01" * 16},
        {"parent_span_id": b"\x01"},
        {"start_time_unix_nano": 0},
        {"start_time_unix_nano": 2**64 - 1},
    ],
)
def test_a_span_with_impossible_ids_or_times_is_refused_and_the_others_kept(
    values: dict[str, object],
) -> None:
    rows, refused = decode(request(span(**values), span()))
    assert (len(rows), refused) == (1, 1)


def test_texts_are_cut_and_cannot_hold_a_nul() -> None:
    row = one(name="a\x00b", attributes=[attribute("k" * 20_000, "v" * 20_000)])
    assert row.name == "a\ufffdb"
    assert {len(k): len(str(v)) for k, v in row.attributes.items()} == {otlp.MAX_TEXT: otlp.MAX_TEXT}


def test_too_many_attributes_and_too_deep_ones_are_cut() -> None:
    deep = AnyValue(string_value="bottom")
    for _ in range(20):
        deep = AnyValue(array_value=ArrayValue(values=[deep]))
    row = one(attributes=[attribute("deep", deep), *(attribute(f"k{n}", n) for n in range(500))])
    assert len(row.attributes) == otlp.MAX_ITEMS
    assert "bottom" not in json.dumps(row.attributes)


def test_other_bytes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="ExportTraceServiceRequest"):
        decode(b"\xff\xff\xff\xff")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_break_the_decoder(noise: bytes) -> None:
    try:
        rows, _ = decode(noise)
    except InvalidInput:
        return
    json.dumps([row.dump() for row in rows], allow_nan=False)


def test_gzip_is_unpacked() -> None:
    assert unpack(gzip.compress(b"spans"), "gzip", 100) == b"spans"
    assert unpack(b"spans", "identity", 100) == b"spans"


def test_a_gzip_bomb_is_refused_without_being_unpacked() -> None:
    bomb = gzip.compress(b"\x00" * 50_000_000)
    tracemalloc.start()
    with pytest.raises(TooLarge):
        unpack(bomb, "gzip", 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_body_that_is_exactly_as_large_as_allowed_is_taken() -> None:
    assert len(unpack(gzip.compress(b"x" * 1000), "gzip", 1000)) == 1000
    with pytest.raises(TooLarge):
        unpack(b"x" * 1001, "", 1000)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [(b"no gzip", "gzip"), (gzip.compress(b"x" * 99, mtime=0)[:-12], "gzip"), (b"", "gzip"), (b"", "br")],
)
def test_a_body_that_is_not_what_its_encoding_says_is_refused(body: bytes, encoding: str) -> None:
    with pytest.raises(InvalidInput):
        unpack(body, encoding, 1000)
