"""Strict JSON, and errors that name the place as the caller wrote it."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from services.gateway.bodies import Body
from services.gateway.complaints import dotted, parse, short
from services.gateway.strict_json import strict_json
from shared.errors import InvalidInput

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), inner, max_size=4
        )
    ),
    max_leaves=20,
)


class Inner(Body):
    count: int | Literal["auto"] = "auto"
    names: tuple[str, ...] = ()


class Outer(Body):
    name: str = Field(min_length=1)
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()


@given(VALUES)
def test_what_json_writes_is_read_back(value: Any) -> None:
    assert strict_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_as_the_callers_fault(raw: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        strict_json(raw)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ('{"a": NaN}', "NaN is not a JSON value"),
        ("[1e400]", "too large"),
        ('{"a": "\\u0000"}', "NUL"),
        ('{"a": "\\udc00"}', "half of a surrogate pair"),
        ("[" * 70 + "]" * 70, "deeper than 64"),
        ("[" * 15_000, "deeper than 64"),
        ("[" * 100_000, "more than 20000 values"),
        ('{"a": 1', "line 1, column"),
        ("\ufeff{}", "not JSON"),
    ],
)
def test_what_is_no_strict_json_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        strict_json(text.encode())


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({}, "name", "missing required parameter 'name'"),
        ({"name": 3}, "name", "valid string, got 3"),
        ({"name": "x", "innr": {}}, "innr", "did you mean 'inner'"),
        ({"name": "x", "inner": {"cuont": 1}}, "inner.cuont", "did you mean 'count'"),
        ({"name": "x", "inner": {"count": 1.5}}, "inner.count", "got 1.5"),
        ({"name": "x", "inner": {"count": "many"}}, "inner.count", "got 'many'"),
        ({"name": "x", "many": [{}, {"names": ["a", 3]}]}, "many[1].names[1]", "valid string"),
        ({"name": "x", "many": {}}, "many", "valid array"),
    ],
)
def test_a_wrong_body_is_refused_by_place(body: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        parse(Outer, json.dumps(body).encode(), body)
    assert caught.value.param == param


def test_a_branch_that_is_named_like_a_field_hides_no_place() -> None:
    class Head(Body):
        type: Literal["head"]
        head: str
        inner: Inner

    class Tail(Body):
        type: Literal["tail"]

    class Whole(Body):
        job: Head | Tail = Field(discriminator="type")

    body = {"job": {"type": "head", "head": "x", "inner": {"count": "many"}}}
    with pytest.raises(InvalidInput) as refused:
        parse(Whole, json.dumps(body).encode(), body)
    assert refused.value.param == "job.inner.count"


def test_numbers_are_not_made_of_strings() -> None:
    body = {"name": "x", "inner": {"count": "3"}}
    with pytest.raises(InvalidInput):
        parse(Outer, json.dumps(body).encode(), body)


def test_places_and_values_stay_short() -> None:
    assert dotted(("a", 0, "b" * 500)) == "a[0]." + "b" * 80
    assert len(short("x" * 1000)) == 80


@pytest.mark.parametrize("value", [b"1", b"{}", b"[]", b'""', b'"\\""', b"null"])
def test_a_body_of_too_many_values_is_refused_before_they_are_made(value: bytes) -> None:
    most = b"[" + b",".join([value] * 6000) + b"]"
    assert len(strict_json(most)) == 6000
    with pytest.raises(InvalidInput, match="more than 20000 values"):
        strict_json(b"[" + b",".join([value] * 20_001) + b"]")


@pytest.mark.parametrize("start", [b'{"', b'"\\', b'\\"', b'"', b'"a\\'])
def test_no_body_takes_long_to_be_refused(start: bytes) -> None:
    # Four megabytes each: a search that tries places again would go on for hours.
    with pytest.raises(InvalidInput):
        strict_json(start * (4_000_000 // len(start)))


def test_what_stands_inside_of_strings_is_no_value() -> None:
    text = ',{[\\"' * 30_000 + "你好"
    assert strict_json(json.dumps({"a": text}).encode()) == {"a": text}
    assert strict_json(json.dumps({"a": text}, ensure_ascii=False).encode()) == {"a": text}
