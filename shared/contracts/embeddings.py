"""The body of a request for embeddings, live or as a row of a batch, and the answer to it. Pure.

Shapes after https://platform.openai.com/docs/api-reference/embeddings/create.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from shared.contracts.decoding import ModelBody, check_text, read_body, short, user_of
from shared.contracts.inference import MAX_INPUTS, EmbeddingRequest
from shared.errors import InvalidInput

EMBEDDINGS = "/v1/embeddings"
MAX_INPUT_TOKENS = 131_072


class EmbeddingBody(ModelBody):
    # Checked by hand: of four shapes, a place in the right one helps.
    input: Any
    dimensions: int | None = Field(default=None, ge=1, le=1_048_576)
    encoding_format: Literal["float", "base64"] | None = None


def parse_embedding(body: Mapping[str, Any]) -> EmbeddingRequest:
    """Raises InvalidInput whose `param` is the place: `input[2]`."""
    parsed = read_body(EmbeddingBody, body)
    return EmbeddingRequest(
        model=parsed.model,
        user=user_of(body),
        inputs=_inputs(parsed.input),
        dimensions=parsed.dimensions,
        encoding_format=parsed.encoding_format or "float",
    )


def place_of(inputs: Sequence[Any], index: int) -> str:
    """What a client calls one of its inputs; one alone was sent without a list, or might have been."""
    return "input" if len(inputs) == 1 else f"input[{index}]"


def _inputs(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """One or more texts or lists of tokens."""
    if isinstance(value, str):
        return (_text(value, "input"),)
    if not isinstance(value, list):
        raise InvalidInput(
            f"input must be a string, a list of strings, a list of tokens or a list of such, got {short(value)}",
            param="input",
        )
    if not value:
        raise InvalidInput("input is an empty list; give at least one text", param="input")
    if all(type(item) is int for item in value):
        return (_tokens(value, "input"),)
    if len(value) > MAX_INPUTS:
        raise InvalidInput(
            f"a request has at most {MAX_INPUTS} inputs, got {len(value)}; send the others in a next one",
            param="input",
        )
    return tuple(
        _text(item, f"input[{index}]") if isinstance(item, str) else _tokens(item, f"input[{index}]")
        for index, item in enumerate(value)
    )


def _text(value: str, place: str) -> str:
    if not value:
        raise InvalidInput(f"{place} is empty; give at least one character", param=place)
    check_text(value, place)
    return value


def _tokens(value: Any, place: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise InvalidInput(f"{place} must be a string or a list of tokens, got {short(value)}", param=place)
    if not 1 <= len(value) <= MAX_INPUT_TOKENS:
        raise InvalidInput(f"{place} must have 1 to {MAX_INPUT_TOKENS} tokens, got {len(value)}", param=place)
    for token in value:
        if type(token) is not int or not 0 <= token < 2**31:
            raise InvalidInput(
                f"{place} must hold tokens alone, which are whole numbers from 0, got {short(token)}",
                param=place,
            )
    return tuple(value)


def embeddings(
    model: str, vectors: Iterable[str], prompt_tokens: int, encoding_format: Literal["float", "base64"]
) -> dict[str, Any]:
    """The answer; `vectors` are float32, little endian, in base64."""
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": vector if encoding_format == "base64" else numbers(vector),
            }
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
    }


def numbers(vector: str) -> list[float]:
    """A vector as numbers with no more digits than float32 has."""
    read = array("f", base64.b64decode(vector))
    if sys.byteorder == "big":
        read.byteswap()
    return [float(f"{number:.9g}") for number in read]
