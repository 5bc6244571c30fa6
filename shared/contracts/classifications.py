"""The body of a request for labels, live or as a row of a batch, and the answer to it. Pure.

`input` and the answer's head as OpenAI's embeddings have them; each result after Jina's classifier
(https://api.jina.ai/redoc), `truncate_prompt_tokens` after vLLM's (https://docs.vllm.ai).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from shared.contracts.decoding import ModelBody, check_text, read_body, short, user_of
from shared.contracts.inference import MAX_INPUTS
from shared.contracts.scores import MAX_TOP_K, ClassificationRequest
from shared.errors import InvalidInput

CLASSIFICATIONS = "/v1/classifications"


class ClassificationBody(ModelBody):
    # Checked by hand, so that the place is told.
    input: Any
    top_k: int | None = Field(default=None, ge=1, le=MAX_TOP_K)
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1, le=131_072)


def parse_classification(body: Mapping[str, Any]) -> ClassificationRequest:
    """Raises InvalidInput whose `param` is the place: `input[2]`."""
    parsed = read_body(ClassificationBody, body)
    return ClassificationRequest(
        model=parsed.model,
        user=user_of(body),
        inputs=(_text(parsed.input, "input"),)
        if isinstance(parsed.input, str)
        else texts(parsed.input, "input", MAX_INPUTS),
        top_k=parsed.top_k or 5,
        truncate=truncation(parsed.truncate_prompt_tokens),
    )


def texts(value: Any, place: str, most: int) -> tuple[str, ...]:
    """A list of texts. Raises InvalidInput naming the first at fault."""
    if not isinstance(value, list):
        raise InvalidInput(f"{place} must be a string or a list of strings, got {short(value)}", param=place)
    if not value:
        raise InvalidInput(f"{place} is an empty list; give at least one text", param=place)
    if len(value) > most:
        raise InvalidInput(
            f"{place} has at most {most} texts, got {len(value)}; send the others in a next request",
            param=place,
        )
    return tuple(_text(item, f"{place}[{index}]") for index, item in enumerate(value))


def truncation(asked: int | None) -> int | None:
    """Raises InvalidInput for 0 tokens, of which nothing is known."""
    if asked == 0:
        raise InvalidInput(
            "truncate_prompt_tokens is 0; give 1 or more, or -1 for what the model takes",
            param="truncate_prompt_tokens",
        )
    return asked


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{place} must be a string, got {short(value)}", param=place)
    if not value:
        raise InvalidInput(f"{place} is empty; give at least one character", param=place)
    check_text(value, place)
    return value


def classifications(
    answer: str, model: str, created: int, results: Sequence[Mapping[str, Any]], prompt_tokens: int
) -> dict[str, Any]:
    """The answer. A result is {"predictions": [[label, score], ...]}, with "labels" (those over one half) of a head
    of several labels; of a regression the one prediction's label is None and its score the number."""
    return {
        "id": f"classify-{answer}",
        "object": "list",
        "created": created,
        "model": model,
        "data": [_result(index, result) for index, result in enumerate(results)],
        "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
    }


def _result(index: int, result: Mapping[str, Any]) -> dict[str, Any]:
    label, score = result["predictions"][0]
    named = [{"label": label, "score": score} for label, score in result["predictions"] if label is not None]
    several = {"labels": result["labels"]} if result.get("labels") is not None else {}
    return {
        "object": "classification",
        "index": index,
        "label": label,
        "score": score,
        **several,
        "predictions": named,
    }
