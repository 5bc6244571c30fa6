"""Texts in one set of Chinese characters."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.data_governance.operators.convert_chinese import Convert
from services.data_governance.rows import Row
from shared.contracts.steps.convert_chinese import ConvertChinese

MakeRow = Callable[..., Row]


def _convert(config: str, *rows: Row) -> list[tuple[str, ...]]:
    step = ConvertChinese.model_validate({"op": "convert_chinese", "params": {"config": config}})
    return [row.texts() for row in Convert(step)(rows).kept]


@pytest.mark.parametrize(
    ("config", "before", "after"),
    [
        ("t2s", "銀行卡綁定後無法收到驗證碼", "银行卡绑定后无法收到验证码"),
        ("s2t", "头发和发票", "頭髮和發票"),
        ("tw2sp", "滑鼠和網路", "鼠标和网络"),
        ("t2s", "OK 100 元", "OK 100 元"),
    ],
)
def test_words_are_converted_and_not_single_characters(
    config: str, before: str, after: str, row: MakeRow
) -> None:
    assert _convert(config, row(text=before)) == [(after,)]


def test_each_turn_is_converted_and_only_what_changed_is_counted(row: MakeRow) -> None:
    step = ConvertChinese.model_validate({"op": "convert_chinese"})
    outcome = Convert(step)([row("訂單呢", "已发货"), row("好", "ok")])
    assert [r.texts() for r in outcome.kept] == [("订单呢", "已发货"), ("好", "ok")]
    assert [change.rules for change in outcome.changed] == [{"chinese_converted": 1}]
