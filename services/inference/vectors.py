"""One request's vectors: a call of the engine for each text, and what comes of them together. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.inference.choices import index_of
from services.inference.gathered import Gathered
from services.inference.upstream.messages import forward
from shared.contracts.embeddings import place_of
from shared.contracts.inference import Embedding
from shared.errors import HeliuError
from shared.frames import Frame

# Characters of base64 in one entry of the answer; a thousand texts in one would hold up everybody's.
PIECE = 128 * 1024
# The engine knows one text, whatever its request calls it.
_OF_THE_TEXT = frozenset({"prompt", "prompt_ids", "messages"})


def calls(request_id: str, wanted: Embedding, encoder: bool, common: Mapping[str, Any]) -> list[Frame]:
    """The engine's `embed` frames, in the order of the texts; for an upstream the whole request."""
    if "upstream" in common:
        names = [f"{request_id}.{index}" for index in range(len(wanted.inputs))]
        return [forward(request_id, names, wanted, common)]
    return [
        {
            "op": "embed",
            "id": f"{request_id}.{index}",
            **common,
            "encoder": encoder,
            "prompt" if isinstance(given, str) else "prompt_ids": given
            if isinstance(given, str)
            else list(given),
            "dimensions": wanted.dimensions,
        }
        for index, given in enumerate(wanted.inputs)
    ]


def failure(wanted: Embedding, frame: Frame) -> HeliuError:
    """The engine's error about one text, with the place that the text has in its request."""
    message, param = str(frame["message"]), frame.get("param")
    if param in _OF_THE_TEXT:
        param = place_of(wanted.inputs, index_of(frame["id"]))
        message = f"{param}: {message}"
    return HeliuError(message, code=frame["code"], param=param, retryable=frame["retryable"])


class Vectors(Gathered):
    """Collects the vectors of a request's texts."""

    def __init__(self, wanted: Embedding) -> None:
        super().__init__(len(wanted.inputs))

    def result(self) -> dict[str, Any]:
        """{"vectors", "usage", "timings"}; vectors are base64, in the order of the texts."""
        return {"vectors": [done["vector"] for done in self.ordered], **self.costs()}


def pieces(vectors: Sequence[str]) -> Iterator[list[str]]:
    """Vectors in runs of at most PIECE characters, or of one."""
    run: list[str] = []
    size = 0
    for vector in vectors:
        if run and size + len(vector) > PIECE:
            yield run
            run, size = [], 0
        run.append(vector)
        size += len(vector)
    if run:
        yield run
