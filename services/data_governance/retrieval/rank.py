"""Ranks the chunks of many indexes for a query: BM25 by terms, cosine by vectors, and the two fused. Pure.

BM25 as Lucene has it (Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework"), over all chunks of a
store as one collection. `words` is a score divided by the most that the query could reach, so it lies in [0, 1].
"""

from __future__ import annotations

import base64
import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.data_governance.retrieval.segment import Floats, Segment
from services.data_governance.retrieval.terms import language, query_terms
from services.data_governance.retrieval.weights import Weights, of_language

K1, B = 1.2, 0.75
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One file's index, read when it is asked for."""

    file_id: str
    load: Callable[[], Segment]


@dataclass(frozen=True)
class Query:
    """A text, and its vector where the store has an encoder."""

    text: str
    vector: Floats | None = None


@dataclass(frozen=True)
class Hit:
    """A chunk of a file, by its number, with a score in [0, 1]."""

    file_id: str
    chunk: int
    score: float
    text: str


@dataclass(frozen=True)
class _Collection:
    """What BM25 knows of all chunks: how many, how long on average, and in how many each term is."""

    chunks: int
    mean_length: float
    holding: dict[str, int]

    def idf(self, term: str) -> float:
        held = self.holding.get(term, 0)
        return math.log(1 + (self.chunks - held + 0.5) / (held + 0.5))


def search(
    parts: Sequence[Part],
    queries: Sequence[Query],
    *,
    limit: int,
    min_score: float,
    weights: Callable[[str], Weights] = of_language,
) -> list[Hit]:
    """The best `limit` chunks of `min_score` or more, the best first; of several queries the better score counts.

    A chunk that has no term of any query and no vector is no hit. Equal scores stand in the order of the files.
    """
    asked = [(query, query_terms(query.text)) for query in queries]
    known = _collect(parts, {term for _, terms in asked for term in terms})
    best: list[tuple[float, int, int, Hit]] = []
    for order, part in enumerate(parts):
        segment = part.load()
        scores = np.zeros(len(segment.texts))
        for query, terms in asked:
            np.maximum(scores, _scores(segment, query, terms, known, weights), out=scores)
        for chunk in np.argsort(-scores, kind="stable")[:limit]:
            score = float(scores[chunk])
            if score <= 0 or score < min_score:
                break
            hit = Hit(part.file_id, int(chunk), score, segment.texts[chunk])
            heapq.heappush(best, (score, -order, -int(chunk), hit))
            if len(best) > limit:
                heapq.heappop(best)
    return [hit for *_, hit in sorted(best, key=lambda one: one[:3], reverse=True)]


def _collect(parts: Sequence[Part], terms: set[str]) -> _Collection:
    chunks = length = 0
    holding: dict[str, int] = {}
    for part in parts:
        segment = part.load()
        chunks += len(segment.texts)
        length += int(segment.lengths.sum())
        for term in terms:
            found = segment.postings(term)
            if found is not None:
                holding[term] = holding.get(term, 0) + len(found[0])
    return _Collection(chunks, length / chunks if chunks and length else 1.0, holding)


def _scores(
    segment: Segment,
    query: Query,
    terms: Sequence[str],
    known: _Collection,
    weights: Callable[[str], Weights],
) -> Scores:
    words = _words(segment, terms, known)
    if query.vector is None or not len(segment.vectors):
        return words
    return weights(language(query.text)).fused(words, _cosines(segment, query.vector))


def _words(segment: Segment, terms: Sequence[str], known: _Collection) -> Scores:
    """BM25 of each chunk as a share of what the query could reach at most."""
    scores = np.zeros(len(segment.texts))
    norms = K1 * (1 - B + B * segment.lengths / known.mean_length)
    most = 0.0
    for term in terms:
        idf = known.idf(term)
        most += idf
        found = segment.postings(term)
        if found is not None:
            chunks, counts = found
            scores[chunks] += idf * counts / (counts + norms[chunks])
    return scores / most if most else scores


def _cosines(segment: Segment, vector: Floats) -> Scores:
    """Of each chunk its most like window; both sides have length 1."""
    cosines = np.full(len(segment.texts), -1.0)
    np.maximum.at(cosines, segment.window_of, (segment.vectors @ vector).astype(np.float64))
    return cosines


def vector_of(packed: str) -> Floats:
    """A query's vector from base64 of float32, brought to length 1."""
    vector = np.frombuffer(base64.b64decode(packed), dtype="<f4")
    unit: Floats = (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
    return unit


def ranked_by(parts: Sequence[Part], queries: Sequence[Query]) -> Iterator[str]:
    """What took part: always words, and meaning where vectors are on both sides."""
    yield "words"
    if any(query.vector is not None for query in queries) and any(len(part.load().vectors) for part in parts):
        yield "meaning"
