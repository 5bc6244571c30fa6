"""A batch's input: every wrong line is named, and shards cover every row once."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference import batch_input
from services.inference.batch_input import lines, parse_row, plan
from shared.contracts.inference import ModelRef
from shared.errors import InvalidInput

ENDPOINT = "/v1/chat/completions"
BASE = {"m": ModelRef(name="m", base_artifact="a")}
ENCODER = {"m": ModelRef(name="m", base_artifact="a", encoder=True)}
RANKER = {"m": ModelRef(name="m", base_artifact="a", head="ranker")}


def row(custom_id: str = "a", **changes: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "你好"}]}
    return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body, **changes}


def file_of(*rows: Any) -> io.BytesIO:
    return io.BytesIO(
        b"".join(
            (r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode()) + b"\n" for r in rows
        )
    )


def errors_of(*rows: Any) -> list[tuple[int | None, str]]:
    return [(e.line, e.code) for e in plan(file_of(*rows), ENDPOINT, BASE, 10).errors]


@given(count=st.integers(1, 60), size=st.integers(1, 25), blank=st.integers(0, 3))
def test_shards_cover_every_row_once_and_in_order(count: int, size: int, blank: int) -> None:
    source = io.BytesIO()
    for i in range(count):
        source.write(json.dumps(row(str(i))).encode() + b"\n" + b"\n" * blank)
    planned = plan(source, ENDPOINT, BASE, size)
    assert (planned.rows, planned.errors, planned.models) == (count, (), ("m",))
    seen = []
    for shard in planned.shards:
        found = [
            parse_row(line.content, ENDPOINT).custom_id for line in lines(source, shard.start, shard.end)
        ]
        assert len(found) == shard.count <= size
        seen += [(shard.first + i, custom_id) for i, custom_id in enumerate(found)]
    assert seen == [(i, str(i)) for i in range(count)]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"{not json", "invalid_json_line"),
        (b"\xff\xfe", "invalid_json_line"),
        (b'{"a": NaN}', "invalid_json_line"),
        (b"[" * 100_000, "invalid_json_line"),
        (b'{"custom_id": "x", "custom_id": "y"}', "invalid_json_line"),
        (b"[]", "invalid_json_line"),
        ({"custom_id": "x"}, "missing_required_parameter"),
        (row(extra=1), "invalid_value"),
        (row(custom_id=""), "invalid_value"),
        (row(custom_id=7), "invalid_value"),
        (row("a\x00"), "invalid_value"),
        (row(method="GET"), "invalid_method"),
        (row(url="/v1/embeddings"), "invalid_url"),
        (row(body="x"), "invalid_value"),
        (row(body={"model": "m"}), "missing_required_parameter"),
        (
            row(body={"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}),
            "invalid_value",
        ),
        (row(body={"model": "none", "messages": [{"role": "user", "content": "x"}]}), "model_not_found"),
    ],
)
def test_a_wrong_line_is_listed_with_its_number(wrong: Any, code: str) -> None:
    assert errors_of(row("good"), wrong) == [(2, code)]


def test_a_custom_id_that_stands_twice_is_refused() -> None:
    assert errors_of(row("a"), row("b"), row("a")) == [(3, "duplicate_custom_id")]


def test_an_empty_file_is_refused() -> None:
    assert errors_of() == [(None, "empty_file")]
    assert errors_of(b"", b"  ") == [(None, "empty_file")]


def test_a_line_over_the_limit_is_refused_without_being_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_input, "MAX_LINE_BYTES", 200)
    assert errors_of(row("a"), b"x" * 5000) == [(2, "line_too_long")]


def test_a_line_of_too_many_values_is_refused_before_they_are_made() -> None:
    wrong = b'{"custom_id": "b", "body": [' + b"{}," * 300_000 + b"1]}"
    assert errors_of(row("a"), wrong) == [(2, "invalid_json_line")]


def test_too_many_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_input, "MAX_ROWS", 2)
    assert errors_of(row("a"), row("b"), row("c")) == [(3, "too_many_rows")]


def test_the_place_inside_the_body_is_named() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": 5}]}
    with pytest.raises(InvalidInput) as caught:
        parse_row(json.dumps(row(body=body)).encode(), ENDPOINT)
    assert caught.value.param == "body.messages[0].content"


def embed_row(**body: Any) -> bytes:
    row = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", **body}}
    return json.dumps(row).encode()


def test_a_row_may_ask_for_vectors() -> None:
    planned = plan(file_of(embed_row(input=["x", [1, 2]])), "/v1/embeddings", ENCODER, 10)
    assert planned.errors == ()
    (error,) = plan(file_of(embed_row(input=["x", ""])), "/v1/embeddings", ENCODER, 10).errors
    assert error.param == "body.input[1]"
    # More values than any other row may have: texts given as tokens.
    parse_row(embed_row(input=[[7] * 30_000]), "/v1/embeddings")


def test_a_chat_with_an_encoder_is_refused_by_name() -> None:
    (error,) = plan(file_of(row()), ENDPOINT, ENCODER, 10).errors
    assert (error.code, error.param) == ("unsupported_model", "body.model")
    assert "'encoder'" in error.message


def test_a_row_may_ask_for_labels_or_an_order_of_a_model_that_gives_them() -> None:
    def planned(url: str, models: dict[str, ModelRef], **body: Any) -> list[tuple[str, str | None]]:
        line = {"custom_id": "a", "method": "POST", "url": url, "body": {"model": "m", **body}}
        return [(e.code, e.param) for e in plan(file_of(line), url, models, 10).errors]

    documents = ["b", {"text": "c"}]
    assert planned("/v1/rerank", RANKER, query="a", documents=documents) == []
    assert planned("/v1/rerank", ENCODER, query="a", documents=documents) == []
    cut = {"query": "a", "documents": documents, "truncate_prompt_tokens": -1}
    assert planned("/v1/rerank", RANKER, **cut) == []
    assert planned("/v1/rerank", ENCODER, **cut) == [("unsupported_parameter", "body.truncate_prompt_tokens")]
    assert planned("/v1/rerank", BASE, query="a", documents=documents) == [
        ("unsupported_model", "body.model")
    ]
    assert planned("/v1/classifications", RANKER, input="a") == [("unsupported_model", "body.model")]
    assert planned("/v1/rerank", RANKER, query="a", documents=["b", 7]) == [
        ("invalid_value", "body.documents[1]")
    ]
