"""JSON of a client: what is read back, and what is refused with the reason."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
