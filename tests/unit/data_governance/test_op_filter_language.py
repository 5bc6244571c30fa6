"""Rows are kept by language: by script first, and by the bundled model where scripts leave it open."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from services.data_governance import languages
from services.data_governance.operators.filter_language import Languages
from services.data_governance.rows import Outcome, Row
from shared.contracts.steps.filter_language import FilterLanguage

MakeRow = Callable[..., Row]


def _run(rows: Sequence[Row], **params: Any) -> Outcome:
    return Languages(FilterLanguage.model_validate({"op": "filter_language", "params": params}))(rows)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("今日沪指收涨百分之二，成交额破万亿", "zh"),
        ("我的iPhone 14 Pro怎么重置Apple ID的密码", "zh"),
        ("請問我的訂單什麼時候會到", "zh"),
        ("日の出特价，全场五折，欢迎光临本店", "zh"),
        ("ご注文の商品はまだ届いていません", "ja"),
        ("주문한 상품이 아직 도착하지 않았습니다", "ko"),
        ("สินค้ายังไม่มาถึงเลย", "th"),
        ("Where is my order? It has been two weeks since I paid for it.", "en"),
        ("Meine Bestellung ist noch nicht angekommen, bitte helfen Sie mir.", "de"),
        ("Ma commande n'est toujours pas arrivée, pouvez-vous m'aider ?", "fr"),
        ("Мой заказ до сих пор не пришёл, помогите пожалуйста.", "ru"),
    ],
)
def test_the_language_of_a_text_is_told(text: str, language: str) -> None:
    found = languages.guess(text)
    assert found is not None
    assert found.language == language


def test_rows_in_other_languages_are_dropped_with_the_reason(row: MakeRow) -> None:
    rows = [
        row(text="今日沪指收涨百分之二，成交额破万亿元", line=1),
        row("Where is my order, please?", "It is on its way to you, it will arrive today.", line=2),
        row(text="Meine Bestellung ist noch nicht angekommen, bitte helfen Sie mir.", line=3),
    ]
    outcome = _run(rows)
    assert [r.line for r in outcome.kept] == [1, 2]
    assert outcome.dropped[0].rule == "language"
    assert "`de`" in outcome.dropped[0].reason
    assert "Bestellung" not in outcome.dropped[0].reason


def test_short_rows_are_kept_or_dropped_as_the_recipe_says(row: MakeRow) -> None:
    rows = [row(text="ok"), row(text="12345678901234567890")]
    assert _run(rows, keep=["zh"]).kept == rows
    assert [d.rule for d in _run(rows, keep=["zh"], undecided="drop").dropped] == ["language_undecided"] * 2


def test_the_model_chooses_among_the_candidates_alone() -> None:
    danish = "Min ordre er ikke kommet endnu, kan du hjælpe mig?"
    found = languages.guess(danish, candidates=["en", "de"])
    assert found is not None
    assert found.language in {"en", "de"}


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the model asked the network")

    languages._model.cache_clear()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert languages.guess("Where is my order? It has been two weeks.") is not None
