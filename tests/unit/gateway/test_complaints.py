"""Errors that name the place as the caller wrote it."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from pydantic import Field

from services.gateway.bodies import Body
from services.gateway.complaints import dotted, parse, short
from shared.errors import InvalidInput


class Inner(Body):
    count: int | Literal["auto"] = "auto"
    names: tuple[str, ...] = ()


class Outer(Body):
    name: str = Field(min_length=1)
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()


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
