"""The body of a request to put documents in order, live or as a row of a batch, and the answer to it. Pure.

Shapes after Jina's and Cohere's reranking, as vLLM serves them: https://docs.vllm.ai.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from shared.contracts.classifications import texts, truncation
from shared.contracts.decoding import ModelBody, check_text, read_body, short, user_of
from shared.contracts.scores import MAX_DOCUMENTS, RerankRequest
from shared.errors import InvalidInput

RERANK = "/v1/rerank"


class RerankBody(ModelBody):
    query: str = Field(min_length=1)
    # Texts, or {"text": ...} each; checked by hand, so that the place is told.
    documents: Any
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = None
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1, le=131_072)


def parse_rerank(body: Mapping[str, Any]) -> RerankRequest:
    """Raises InvalidInput whose `param` is the place: `documents[2]`."""
    parsed = read_body(RerankBody, body)
    check_text(parsed.query, "query")
    given = parsed.documents
    if not isinstance(given, list):
        raise InvalidInput(f"documents must be a list of texts, got {short(given)}", param="documents")
    return RerankRequest(
        model=parsed.model,
        user=user_of(body),
        query=parsed.query,
        documents=texts([_plain(document) for document in given], "documents", MAX_DOCUMENTS),
        top_n=parsed.top_n,
        return_documents=parsed.return_documents is not False,
        truncate=truncation(parsed.truncate_prompt_tokens),
    )


def check_cut(asked: RerankRequest, kind: str, place: str = "") -> None:
    """Raise InvalidInput where texts are to be cut that an encoder compares: a vector is of a whole text."""
    if kind == "encoder" and asked.truncate is not None:
        raise InvalidInput(
            f"the model {asked.model!r} is an encoder, whose texts are not cut; leave truncate_prompt_tokens out",
            code="unsupported_parameter",
            param=f"{place}truncate_prompt_tokens",
        )


def _plain(document: Any) -> Any:
    """Cohere's and Jina's objects with a text alone; anything else is told of by its place."""
    return document["text"] if isinstance(document, dict) and document.keys() == {"text"} else document


def reranked(
    answer: str, asked: RerankRequest, scores: Sequence[float], prompt_tokens: int
) -> dict[str, Any]:
    """The answer: the best first, and those of equal score in the order they came in."""
    ordered = sorted(range(len(scores)), key=lambda index: -scores[index])[: asked.top_n]
    return {
        "id": f"rerank-{answer}",
        "model": asked.model,
        "results": [
            {
                "index": index,
                **({"document": {"text": asked.documents[index]}} if asked.return_documents else {}),
                "relevance_score": scores[index],
            }
            for index in ordered
        ],
        "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
    }
