"""Similarities and figures over many texts, against the libraries that others measure with."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from nltk.translate.gleu_score import sentence_gleu
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, recall_score, roc_auc_score

from services.training.evals import classes, corpus
from services.training.evals.similarity import similarity, spaced
from services.training.metrics import tokens
from shared.contracts.graders import TextSimilarity

PAIRS = [
    ("the cat sat on the mat .", "the cat is on the mat ."),
    ("我要退款 now", "我想要退款 now"),
    ("hello there you", "hello here all of you"),
    ("完全不同", "something else"),
]
METRICS = [
    one for one in TextSimilarity.model_fields["evaluation_metric"].annotation.__args__ if one != "cosine"
]


@pytest.mark.parametrize("metric", METRICS)
def test_every_similarity_lies_between_nothing_and_the_same(metric: str) -> None:
    for text, reference in PAIRS:
        assert 0 <= similarity(metric, text, reference) < 1
    same = "退款 three days later we are done here"
    assert similarity(metric, same, same) == pytest.approx(1, abs=0.01)
    assert similarity(metric, "", "") == 1.0
    assert similarity(metric, "", "x") == similarity(metric, "x", " ") == 0.0


def test_chinese_is_compared_character_by_character() -> None:
    assert similarity("rouge_1", "我要退款", "我想要退款") == pytest.approx(8 / 9)
    assert similarity("rouge_2", "我要退款", "我想要退款") == pytest.approx(4 / 7)
    assert similarity("rouge_l", "我要退款", "我想要退款") == pytest.approx(8 / 9)
    assert similarity("rouge_l", "款退要我", "我要退款") == pytest.approx(2 / 8)


def test_gleu_is_that_of_nltk() -> None:
    for text, reference in PAIRS:
        assert similarity("gleu", text, reference) == pytest.approx(
            sentence_gleu([tokens(reference)], tokens(text))
        )


def test_bleu_and_chrf_of_a_corpus_are_those_of_sacrebleu() -> None:
    texts, references = [a for a, _ in PAIRS], [b for _, b in PAIRS]
    chrf = corpus.measure("chrf", texts, references, None)
    bleu = corpus.measure("bleu", texts, references, None)
    assert chrf is not None
    assert bleu is not None
    assert chrf.mean == pytest.approx(sacrebleu.corpus_chrf(texts, [references]).score / 100)
    cut = sacrebleu.corpus_bleu(
        [spaced(x) for x in texts], [[spaced(x) for x in references]], tokenize="none"
    )
    assert bleu.mean == pytest.approx(cut.score / 100)
    assert chrf.low < chrf.mean < chrf.high


def test_figures_of_classes_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = ["a", "b", "c"]
    wanted = [labels[i] for i in rng.choice(3, 400, p=[0.6, 0.3, 0.1])]
    likely = rng.dirichlet([1, 1, 1], 400)
    likely[np.arange(400), [labels.index(one) for one in wanted]] += 0.4
    likely /= likely.sum(1, keepdims=True)
    given = [labels[i] for i in likely.argmax(1)]
    rows = [dict(zip(labels, map(float, row), strict=True)) for row in likely]
    figures, each = classes.measure(classes.Decisions(wanted, given, rows))
    told = {name: one.mean for name, one in figures.items() if one is not None}
    assert told["accuracy"] == pytest.approx(accuracy_score(wanted, given))
    assert told["macro_f1"] == pytest.approx(f1_score(wanted, given, average="macro"))
    assert told["mcc"] == pytest.approx(matthews_corrcoef(wanted, given))
    assert told["auroc"] == pytest.approx(roc_auc_score(wanted, likely, multi_class="ovr", labels=labels))
    recalls = recall_score(wanted, given, average=None, labels=labels)
    assert [told[f"recall[{one}]"] for one in labels] == pytest.approx(list(recalls))
    assert [each[one]["support"] for one in labels] == [wanted.count(one) for one in labels]
    assert all(one is not None and one.low <= one.mean <= one.high for one in figures.values())


def test_ece_is_the_distance_between_sure_and_right() -> None:
    rng = np.random.default_rng(4)
    sure = rng.uniform(0.34, 1, 20_000)
    assert classes.ece(sure, rng.random(20_000) < sure) < 0.02
    assert classes.ece(sure, rng.random(20_000) < sure - 0.2) == pytest.approx(0.2, abs=0.02)


def test_an_answer_that_is_no_class_is_wrong_and_one_class_alone_has_no_auroc() -> None:
    figures, each = classes.measure(classes.Decisions(["a", "a", "b"], ["a", "what?", "b"]))
    assert figures["accuracy"] is not None
    assert figures["accuracy"].mean == pytest.approx(2 / 3)
    assert each["a"]["recall"] == 0.5
    alone, _ = classes.measure(classes.Decisions(["a", "a"], ["a", "a"], [{"a": 0.9}, {"a": 0.8}]))
    assert alone["auroc"] is None
