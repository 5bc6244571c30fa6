"""Terms of texts and queries."""

from __future__ import annotations

import pytest

from services.data_governance.retrieval.terms import document_terms, fold, language, query_terms


def test_chinese_is_pairs_of_characters_and_latin_is_words() -> None:
    assert query_terms("银行卡 credit-card 2号") == ["银行", "行卡", "credit", "card", "2", "号"]


def test_a_single_character_is_asked_for_alone_and_found_inside_words() -> None:
    counts, length = document_terms("银行卡")
    assert query_terms("卡") == ["卡"]
    assert (counts["卡"], counts["银行"], length) == (1, 1, 2)


def test_width_case_and_traditional_characters_are_folded() -> None:
    assert fold("ＡＢＣ　銀行帳戶") == "abc 银行账户"
    assert query_terms("銀行") == query_terms("银行")


def test_words_with_accents_and_apostrophes_stay_whole() -> None:
    assert query_terms("l'été don’t") == ["l'été", "don’t"]


@pytest.mark.parametrize(
    ("text", "told"), [("退款", "zh"), ("refund policy", "en"), ("APP退款", "zh"), ("", "en"), ("123", "en")]
)
def test_the_language_is_what_weighs_more(text: str, told: str) -> None:
    assert language(text) == told
