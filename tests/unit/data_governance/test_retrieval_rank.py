"""Ranking over the indexes of files, against another implementation and by hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import bm25s
import numpy as np
import pytest

from services.data_governance.retrieval import segment
from services.data_governance.retrieval.cache import SegmentCache
from services.data_governance.retrieval.rank import K1, B, Part, Query, search, vector_of
from services.data_governance.retrieval.segment import Segment
from services.data_governance.retrieval.terms import document_terms, query_terms
from services.data_governance.retrieval.weights import Judged, Weights, fit
from shared.errors import InvalidInput

TEXTS = [
    "本店支持银行转账与刷卡付款。",
    "退货签收后三个工作日内，款项原路退回银行卡。",
    "Goods may be returned within thirty days.",
    "省内两天送达，偏远地区五天。",
    "信用卡还款日可以在手机银行里查看，逾期会收取利息。",
    "年假按工龄计算，满十年有十天。",
]
EQUAL = Weights(words=4.0, meaning=4.0, bias=-2.0)


def part(name: str, texts: Sequence[str], vectors: list[list[float]] | None = None) -> Part:
    given = np.array(vectors, np.float32) if vectors is not None else None
    made = segment.build(texts, given, range(len(vectors or ())))
    return Part(name, lambda: made)


@pytest.mark.parametrize("query", ["银行卡还款", "退货 thirty days", "年假", "手机银行里的利息"])
def test_scores_are_in_proportion_to_those_of_another_implementation(query: str) -> None:
    corpus = [
        [t for t, n in document_terms(text)[0].items() if len(t) > 1 for _ in range(n)] for text in TEXTS
    ]
    other = bm25s.BM25(method="lucene", k1=K1, b=B)
    other.index(corpus, show_progress=False)
    theirs = other.get_scores([t for t in query_terms(query) if t in other.vocab_dict])
    hits = search([part("a", TEXTS[:2]), part("b", TEXTS[2:])], [Query(query)], limit=10, min_score=0)
    ours = {(hit.file_id, hit.chunk): hit.score for hit in hits}
    scores = [ours.get(("a", n) if n < 2 else ("b", n - 2), 0.0) for n in range(len(TEXTS))]
    ratios = {round(float(mine / his), 5) for mine, his in zip(scores, theirs, strict=True) if his > 0}
    assert len(ratios) == 1
    assert all(mine == 0 for mine, his in zip(scores, theirs, strict=True) if his == 0)


def test_one_file_in_parts_is_ranked_as_in_one() -> None:
    whole = search([part("a", TEXTS)], [Query("银行卡")], limit=6, min_score=0)
    apart = search(
        [part(str(n), [text]) for n, text in enumerate(TEXTS)], [Query("银行卡")], limit=6, min_score=0
    )
    assert [(hit.text, hit.score) for hit in apart] == [(hit.text, hit.score) for hit in whole]


def test_scores_lie_between_0_and_1_and_more_of_the_query_is_more() -> None:
    first, second = search([part("a", ["银行转账", "银行"])], [Query("银行转账")], limit=2, min_score=0)
    assert first.text == "银行转账"
    assert 1 > first.score > second.score > 0


def test_a_single_character_finds_what_has_it() -> None:
    (hit,) = search([part("a", TEXTS)], [Query("龄")], limit=5, min_score=0)
    assert hit.chunk == 5


def test_meaning_counts_by_the_weights() -> None:
    parts = [part("a", ["苹果", "银行"], [[1, 0], [0, 1]])]
    asked = Query("银行", vector_of(base64.b64encode(np.array([2, 0], "<f4").tobytes()).decode()))
    by_meaning = search(parts, [asked], limit=1, min_score=0, weights=lambda _: Weights(0.1, 9.0, -2.0))
    by_words = search(parts, [asked], limit=1, min_score=0, weights=lambda _: Weights(90.0, 1.0, -2.0))
    assert (by_meaning[0].text, by_words[0].text) == ("苹果", "银行")


def test_a_chunk_is_as_near_as_its_nearest_window() -> None:
    made = segment.build(["一", "二"], np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32), [0, 0, 1])
    asked = Query("x", np.array([0, 1], np.float32))
    hits = search([Part("a", lambda: made)], [asked], limit=2, min_score=0, weights=lambda _: EQUAL)
    assert [hit.text for hit in hits] == ["一", "二"]


def test_of_several_queries_the_better_score_counts() -> None:
    hits = search([part("a", TEXTS)], [Query("年假"), Query("thirty")], limit=2, min_score=0)
    assert {hit.chunk for hit in hits} == {2, 5}


def test_a_threshold_and_a_limit_cut_the_end() -> None:
    every = search([part("a", TEXTS)], [Query("银行卡")], limit=10, min_score=0)
    some = search([part("a", TEXTS)], [Query("银行卡")], limit=10, min_score=every[1].score)
    assert some == every[:2]
    assert search([part("a", TEXTS)], [Query("银行卡")], limit=1, min_score=0) == every[:1]


def test_an_index_is_read_back_as_it_was_and_the_same_is_the_same_bytes() -> None:
    vectors = np.array([[3, 4], [1, 0]], np.float32)
    made = segment.build(["银行", "bank"], vectors, [0, 1])
    packed = segment.pack(made)
    back = segment.unpack(io.BytesIO(packed))
    assert packed == segment.pack(segment.build(["银行", "bank"], vectors, [0, 1]))
    assert (back.texts, back.rows) == (made.texts, made.rows)
    assert np.allclose(back.vectors, [[0.6, 0.8], [1, 0]])


def test_vectors_that_are_no_numbers_or_too_few_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no numbers"):
        segment.build(["a"], np.array([[np.nan, 1]], np.float32), [0])
    with pytest.raises(InvalidInput, match="2 windows have 1 vectors"):
        segment.build(["a"], np.array([[0, 1]], np.float32), [0, 0])


def test_the_cache_keeps_the_latest_within_its_bytes() -> None:
    read: list[str] = []

    def make(artifact: str) -> Segment:
        read.append(artifact)
        return segment.build([artifact * 50])

    size = segment.build(["a" * 50]).bytes
    cache = SegmentCache(make, most_bytes=2 * size)
    for artifact in "abacab":
        cache.get(artifact)
    assert "".join(read) == "abcb"
    assert cache.bytes <= 2 * size
    assert SegmentCache(make, most_bytes=1).get("x").texts == ("x" * 50,)


def test_weights_are_learned_from_what_tells_right_from_wrong() -> None:
    draw = np.random.default_rng(0)

    def judged(helps: float) -> Judged:
        words, meaning = draw.random(20), draw.random(20)
        meaning[3] += helps
        return Judged(words, meaning, 3)

    learned = fit([judged(0.6) for _ in range(60)])
    assert learned.meaning > 5 * learned.words >= 0
    right = learned.fused(np.array([0.5]), np.array([1.4]))
    wrong = learned.fused(np.array([0.5]), np.array([0.3]))
    assert right > 0.5 > wrong


def test_weights_of_a_start_that_is_far_away_do_not_run_off() -> None:
    sure = [Judged(np.array([1.0, 0, 0, 0]), np.array([0.9, 0.91, 0.92, 0.2]), 0) for _ in range(40)]
    learned = fit(sure)
    assert learned.words > learned.meaning
    assert np.isfinite([learned.words, learned.meaning, learned.bias]).all()
