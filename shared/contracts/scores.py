"""What is asked of a head: labels of texts, or how well documents answer a query."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.base import Message
from shared.contracts.inference import MAX_INPUTS, ModelCall

MAX_DOCUMENTS = 1000
MAX_TOP_K = 100


class Classification(Message):
    """Texts whose labels are asked for, the `top_k` likeliest; a longer text is cut to `truncate` tokens (-1 is what
    the model takes), or refused where none is given."""

    inputs: tuple[str, ...] = Field(min_length=1, max_length=MAX_INPUTS)
    top_k: int = Field(5, ge=1, le=MAX_TOP_K)
    truncate: Annotated[int, Field(ge=-1, le=131_072)] | None = None


class ClassificationRequest(Classification):
    """A checked request of a client."""

    model: str
    stream: Literal[False] = False
    user: str | None = None


class Classify(ModelCall, Classification):
    """Labels of texts, in entries of a few, in the order of the texts."""

    name: ClassVar[str] = "inference.classify"


class Reranking(Message):
    """Documents to be put in order by how well they answer a query; `truncate` as of a classification."""

    query: str
    documents: tuple[str, ...] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    truncate: Annotated[int, Field(ge=-1, le=131_072)] | None = None


class RerankRequest(Reranking):
    """A checked request of a client: of which model, how many of the best, and whether with their texts."""

    model: str
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = True
    stream: Literal[False] = False
    user: str | None = None


class Rerank(ModelCall, Reranking):
    """A score for each document, in their order."""

    name: ClassVar[str] = "inference.rerank"
