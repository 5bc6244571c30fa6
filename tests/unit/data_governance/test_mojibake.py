"""Certain repairs are made, uncertain ones are not, and what was lost is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.data_governance.mojibake import damage, repair


@pytest.mark.parametrize(
    ("said", "encoded", "read"),
    [
        ("你好，请问我的订单什么时候发货？", "utf-8", "latin-1"),
        ("你好，请问我的订单什么时候发货？", "utf-8", "gb18030"),
        ("你好，请问我的订单什么时候发货？", "gb18030", "latin-1"),
        ("你好，请问我的订单什么时候发货？", "gb18030", "cp1252"),
        ("退款", "utf-8", "cp1252"),
        ("退款", "gb18030", "latin-1"),
        ("café – it’s “good” 😊", "utf-8", "latin-1"),
        ("the café’s naïve", "utf-8", "cp1252"),
        ("Привет мир, это тест", "utf-8", "latin-1"),
    ],
)
def test_text_read_with_the_wrong_encoding_is_repaired(said: str, encoded: str, read: str) -> None:
    assert repair(said.encode(encoded).decode(read)) == said


def test_the_repair_works_when_it_happened_twice_and_beside_sound_text() -> None:
    twice = "你好吗".encode().decode("latin-1").encode().decode("latin-1")
    assert repair(f"订单 {twice} ok") == "订单 你好吗 ok"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "« CAFÉ » CAFÉ»",
            "Ünïcödé ÄÖÜß naïve",
            "à l’école",
            "Ação não",
            "señor ÑÑÑ",
            "Ã",
            "é©",
            "£5–€10 ½ °C",
        ),
        *(
            "浣溪沙",
            "你好，世界。",
            "電話號碼",
            "こんにちは",
            "안녕하세요",
            "Привет",
            "مرحبا",
            "what?????",
            "在吗？？？？？？",
        ),
    ],
)
def test_sound_text_is_neither_repaired_nor_called_damaged(text: str) -> None:
    assert repair(text) == text
    assert damage(text) is None


@given(st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), max_size=40))
def test_chinese_read_as_latin1_comes_back_whole(text: str) -> None:
    assert repair(text.encode().decode("latin-1")) == text or "\x85" in text.encode().decode("latin-1")


@given(st.text(alphabet="的一是在不了有和人这中大为上个国我以要他时来用们，。！？ abc123", max_size=60))
def test_common_chinese_is_never_touched(text: str) -> None:
    assert repair(text) == text
    assert damage(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "优惠码输进去\ufffd\ufffd效",
            "锟斤拷锟斤拷",
            "烫烫烫烫",
            "?????? ??????",
            "浣犲ソ锛?",
            "鎴戠殑璁㈠崟浠€涔堟椂鍊欏埌",
        ),
        *("你好ä½ 的订单",),
    ],
)
def test_lost_letters_are_told(text: str) -> None:
    assert damage(repair(text)) is not None
