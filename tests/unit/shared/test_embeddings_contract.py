"""The body of a request for embeddings, and the answer to it."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from shared.contracts.embeddings import embeddings, numbers, parse_embedding
from shared.contracts.inference import Embed, ModelRef
from shared.errors import InvalidInput


def body(**values: Any) -> dict[str, Any]:
    return {"model": "m", "input": "你好", **values}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        ([[1, 2], "b"], ((1, 2), "b")),
        (["a"] * 2048, ("a",) * 2048),
    ],
)
def test_an_input_has_four_shapes(given: Any, read: tuple[Any, ...]) -> None:
    assert parse_embedding(body(input=given)).inputs == read


def test_a_request_becomes_a_call_that_survives_the_queue() -> None:
    asked = parse_embedding(body(input=["a", [1, 2]], dimensions=8, user="u"))
    model = ModelRef(name="m", base_artifact="sha256:1", encoder=True)
    call = Embed(model=model, inputs=asked.inputs, dimensions=asked.dimensions)
    assert Embed.model_validate(call.dump()) == call
    assert asked.encoding_format == "float"


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": ["a", []]}, "input[1]"),
        ({"input": [[1], [2, -3]]}, "input[1]"),
        ({"input": [[1], [2.5]]}, "input[1]"),
        ({"input": [[1], [True]]}, "input[1]"),
        ({"input": [1, "a"]}, "input[0]"),
        ({"input": [-1]}, "input"),
        ({"input": [2**31]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "nul \x00"}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
        ({"dimensions": "8"}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"model": ""}, "model"),
        ({"stream": True}, "stream"),
        ({"dimension": 8}, "dimension"),
    ],
)
def test_a_wrong_value_is_refused_at_its_place(values: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_embedding(body(**values))
    assert caught.value.param == place


def test_a_missing_input_is_named_and_a_misspelt_field_is_guessed() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_embedding({"model": "m"})
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "input")
    with pytest.raises(InvalidInput, match="did you mean 'dimensions'"):
        parse_embedding(body(dimension=8))


def test_both_formats_say_the_same_numbers() -> None:
    exact = [0.1, -1.5, 3.4028235e38, 1e-45]
    packed = struct.pack("<4f", *exact)
    vector = base64.b64encode(packed).decode()
    coded = embeddings("m", [vector, vector], 7, "base64")
    plain = embeddings("m", [vector], 7, "float")
    assert [row["embedding"] for row in coded["data"]] == [vector, vector]
    assert [row["index"] for row in coded["data"]] == [0, 1]
    assert coded["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert struct.pack("<4f", *plain["data"][0]["embedding"]) == packed
    assert numbers(vector)[:2] == [0.100000001, -1.5]
