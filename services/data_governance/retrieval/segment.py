"""The index of one file: its chunks, their terms and their vectors, as one immutable object. Knows no ranking.

The same chunks and vectors are the same bytes, so that an index is found by its content. Arrays only: no pickle.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from services.data_governance.retrieval.terms import document_terms
from shared.errors import InvalidInput

FORMAT = 1
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Segment:
    """`texts` of the chunks; `rows[term]` is its row in `starts`, which cuts `chunk_of` and `counts` into postings.

    `vectors` (windows, width) have length 1, and belong to the chunks `window_of`; of a file without an encoder there
    are none.
    """

    texts: tuple[str, ...]
    lengths: Ints
    rows: dict[str, int]
    starts: Ints
    chunk_of: Ints
    counts: Ints
    vectors: Floats
    window_of: Ints

    @property
    def bytes(self) -> int:
        """About what it takes in memory."""
        arrays = (self.lengths, self.starts, self.chunk_of, self.counts, self.vectors, self.window_of)
        text = sum(map(len, self.texts)) * 2 + 120 * len(self.rows)
        return text + sum(array.nbytes for array in arrays)

    def postings(self, term: str) -> tuple[Ints, Ints] | None:
        """(chunks, how often in each) of a term."""
        row = self.rows.get(term)
        if row is None:
            return None
        cut = slice(self.starts[row], self.starts[row + 1])
        return self.chunk_of[cut], self.counts[cut]


def build(texts: Sequence[str], vectors: Floats | None = None, window_of: Sequence[int] = ()) -> Segment:
    """Raises InvalidInput for vectors that are no numbers, or not one a window."""
    found: dict[str, list[tuple[int, int]]] = {}
    lengths = np.zeros(len(texts), np.int32)
    for place, text in enumerate(texts):
        counts, lengths[place] = document_terms(text)
        for term, count in counts.items():
            found.setdefault(term, []).append((place, count))
    terms = sorted(found)
    flat = [pair for term in terms for pair in found[term]]
    starts = np.cumsum([0, *(len(found[term]) for term in terms)], dtype=np.int32)
    made = _unit(vectors) if vectors is not None else np.zeros((0, 0), np.float32)
    if len(made) != len(window_of):
        raise InvalidInput(f"{len(window_of)} windows have {len(made)} vectors")
    return Segment(
        tuple(texts),
        lengths,
        {term: row for row, term in enumerate(terms)},
        starts,
        np.array([chunk for chunk, _ in flat], np.int32),
        np.array([count for _, count in flat], np.int32),
        made,
        np.array(window_of, np.int32),
    )


def _unit(vectors: Floats) -> Floats:
    if not np.isfinite(vectors).all():
        raise InvalidInput("the encoder made vectors that are no numbers", code="invalid_model")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


def pack(segment: Segment) -> bytes:
    """As stored: an .npz whose texts and terms are JSON in UTF-8."""
    words = {"format": FORMAT, "texts": segment.texts, "terms": list(segment.rows)}
    target = io.BytesIO()
    np.savez_compressed(
        target,
        words=np.frombuffer(json.dumps(words, ensure_ascii=False).encode("utf-8", "surrogatepass"), np.uint8),
        lengths=segment.lengths,
        starts=segment.starts,
        chunk_of=segment.chunk_of,
        counts=segment.counts,
        vectors=segment.vectors,
        window_of=segment.window_of,
    )
    return target.getvalue()


def unpack(source: BinaryIO) -> Segment:
    """Raises InvalidInput for an index of a format that this code does not know."""
    with np.load(source, allow_pickle=False) as arrays:
        words: dict[str, Any] = json.loads(arrays["words"].tobytes().decode("utf-8", "surrogatepass"))
        if words["format"] != FORMAT:
            raise InvalidInput(f"the index has the format {words['format']}, known is {FORMAT}")
        return Segment(
            tuple(words["texts"]),
            arrays["lengths"],
            {term: row for row, term in enumerate(words["terms"])},
            arrays["starts"],
            arrays["chunk_of"],
            arrays["counts"],
            arrays["vectors"],
            arrays["window_of"],
        )
