"""Each limit of form drops what breaks it; what customers write passes the defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from services.data_governance.operators.quality_filter import QualityOfForm
from services.data_governance.rows import Outcome, Row
from shared.contracts.recipe_text import InvalidRecipe, parse_recipe
from shared.contracts.steps.quality_filter import QualityFilter

MakeRow = Callable[..., Row]


def _run(rows: Sequence[Row], **params: Any) -> Outcome:
    return QualityOfForm(QualityFilter.model_validate({"op": "quality_filter", "params": params}))(rows)


@pytest.mark.parametrize(
    ("text", "params", "rule"),
    [
        ("═══════════════════════════", {}, "few_letters"),
        ("1234 5678 9012 3456 7890 1234 元人民币整数", {"min_letter_share": 0}, "many_digits"),
        ("$$$!!!???~~~***@@@ 好的好的好的", {"min_letter_share": 0}, "many_symbols"),
        ("a b c d e f g h i j k l m n o p q r s t u v w x y z", {}, "short_words"),
        (" ".join(["incomprehensibilities"] * 25), {}, "long_words"),
        ("订单 物流 退款 发票 优惠 积分 会员 客服 商品", {"min_stop_words": 2}, "few_stop_words"),
        ("#话题 #热搜 #推荐 #好物 #分享 #种草 今天", {"min_letter_share": 0}, "many_symbol_words"),
        ("看这里 https://example.com/a/very/long/path/of/an/address?with=query&and=more", {}, "many_urls"),
        ("- 第一项内容\n- 第二项内容\n- 第三项内容\n- 第四项内容", {"max_bullet_lines": 0.9}, "many_bullets"),
        ("今天的天气真好…\n我们出去玩吧…\n明天再说这件事情吧…", {}, "many_ellipses"),
    ],
)
def test_each_limit_names_itself_in_the_drop(
    text: str, params: dict[str, Any], rule: str, row: MakeRow
) -> None:
    dropped = _run([row(text=text)], **params).dropped
    assert [drop.rule for drop in dropped] == [rule]


@pytest.mark.parametrize(
    "turns",
    [
        ("订单号2026030512345678，什么时候发货？", "您好，预计明天发货。"),
        ("在吗？？？", "您好~请问有什么可以帮您的呢？😊"),
        ("Hi, the total was $128.50 but I paid $150!", "Sorry about that, we will refund $21.50."),
        ("1. 打开设置\n2. 点击账户\n3. 选择注销\n这样对吗", "对的，按这三步操作就可以"),
        ("https://item.example.cn/123 这个还有货吗", "有货的，您可以直接拍下，我们当天发出"),
        ("嗯...", "..."),
    ],
)
def test_what_customers_write_passes_the_defaults(turns: Sequence[str], row: MakeRow) -> None:
    assert _run([row(*turns)]).dropped == []


def test_a_limit_is_turned_off_by_its_end_of_the_scale(row: MakeRow) -> None:
    rows = [row(text="═══════════════════════════")]
    assert _run(rows, min_letter_share=0, max_symbol_share=1).dropped == []


def test_limits_that_cross_are_refused() -> None:
    step = {"op": "quality_filter", "params": {"min_word_length": 9, "max_word_length": 3}}
    with pytest.raises(InvalidRecipe, match="above `max_word_length`"):
        parse_recipe({"steps": [step]})
