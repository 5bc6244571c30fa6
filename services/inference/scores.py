"""Labels of texts and scores of documents: a call of the engine for each, and what comes of them together. Pure."""

from __future__ import annotations

import base64
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from services.inference import vectors
from services.inference.choices import index_of
from services.inference.gathered import Gathered
from shared.contracts.embeddings import place_of
from shared.contracts.inference import Embedding
from shared.contracts.scores import Classification, Reranking
from shared.errors import HeliuError
from shared.frames import Frame

# The engine knows one text, whatever its request calls it.
_OF_THE_TEXT = frozenset({"prompt", "pair"})


def calls(
    request_id: str, wanted: Classification | Reranking, encoder: bool, common: Mapping[str, Any]
) -> list[Frame]:
    """The engine's frames, in the order of the texts; an encoder is asked for vectors, the query's first."""
    if isinstance(wanted, Classification):
        asked: list[Frame] = [
            {"prompt": text, "top_k": wanted.top_k, "truncate": wanted.truncate} for text in wanted.inputs
        ]
    elif encoder:
        texts = Embedding(inputs=(wanted.query, *wanted.documents))
        return vectors.calls(request_id, texts, True, common)
    else:
        asked = [
            {"prompt": wanted.query, "pair": document, "truncate": wanted.truncate}
            for document in wanted.documents
        ]
    return [
        {"op": "score", "id": f"{request_id}.{index}", **common, **frame} for index, frame in enumerate(asked)
    ]


def failure(wanted: Classification | Reranking, encoder: bool, frame: Frame) -> HeliuError:
    """The engine's error about one text, with the place that the text has in its request."""
    message, param = str(frame["message"]), frame.get("param")
    if param in _OF_THE_TEXT:
        index = index_of(frame["id"])
        if isinstance(wanted, Classification):
            param = place_of(wanted.inputs, index)
        elif encoder:
            param = f"documents[{index - 1}]" if index else "query"
        else:
            param = f"documents[{index}]"
        message = f"{param}: {message}"
    return HeliuError(message, code=frame["code"], param=param, retryable=frame["retryable"])


class Labelled(Gathered):
    """Collects the labels of a request's texts."""

    def __init__(self, wanted: Classification) -> None:
        super().__init__(len(wanted.inputs))

    def result(self) -> dict[str, Any]:
        """{"results", "usage", "timings"}; a result is {"predictions", "labels"} as of the engine."""
        kept = [{name: done[name] for name in ("predictions", "labels")} for done in self.ordered]
        return {"results": kept, **self.costs()}


class Ranked(Gathered):
    """Collects the scores of a query's documents: a head's own, or the cosine of an encoder's vectors."""

    def __init__(self, wanted: Reranking, encoder: bool) -> None:
        super().__init__(len(wanted.documents) + encoder)
        self._encoder = encoder

    def result(self) -> dict[str, Any]:
        """{"scores", "usage", "timings"}; in the order of the documents."""
        if not self._encoder:
            return {"scores": [done["predictions"][0][1] for done in self.ordered], **self.costs()}
        query, *documents = [array("f", base64.b64decode(done["vector"])) for done in self.ordered]
        return {"scores": [_cosine(query, document) for document in documents], **self.costs()}


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    length = math.hypot(*one) * math.hypot(*other)
    return sum(map(float.__mul__, one, other)) / length if length else 0.0
