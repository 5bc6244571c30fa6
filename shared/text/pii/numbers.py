"""E-mail addresses, phone numbers, ID-card and bank-card numbers: where they stand in a narrow text. Pure.

Digit look-arounds, never a word boundary: in Python a Chinese character is a word character, so `\\b` misses
the number in `联系电话13800138000谢谢`. Every pattern is bounded, so that no text makes it run for long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from shared.text.pii.checks import is_bank_card, is_id_card

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9_%+\-](?:[A-Za-z0-9._%+\-]{0,63})@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9\-])"
)
# The patterns below open with the characters that a number may start with, and look back afterwards: that is how
# `re` skips quickly over text without any.
_ID_CARD = re.compile(
    r"[1-9](?<![0-9A-Za-z].)(?<![0-9]\..)[0-9]{5}[ \-]?(?:18|19|20)[0-9]{2}(?:0[1-9]|1[0-2])"
    r"(?:0[1-9]|[12][0-9]|3[01])[ \-]?[0-9]{3}[0-9Xx](?![0-9A-Za-z])(?!\.[0-9])"
)
_BANK_CARD = re.compile(
    r"[2-69](?<![0-9A-Za-z].)(?<![0-9][.\-].)(?:[ \-]?[0-9]){12,18}(?![0-9A-Za-z])(?![.\-][0-9])"
)

_END = r"(?![0-9A-Za-z])(?![.][0-9])"
# A number that only its separators make readable may not be a part of a longer separated number.
_ALONE = r"(?<![0-9][ \-.])"
_ALONE_END = r"(?![ \-][0-9])"
_SOLID = r"1[3-9][0-9]{9}" + _END
_SPLIT = r"1[3-9][0-9](?:(?:[ \-.·][0-9]{4}){2}|[ \-][0-9]{8}|[0-9]{4}[ \-][0-9]{4})" + _END + _ALONE_END
_MOBILE = re.compile(
    # "+86 138...", "0086138...", "86-138...", "(86)138...", or the bare number
    r"(?=[+(018])(?:(?<![0-9+])\+86[ \-]?|(?<![0-9A-Za-z+])(?<![0-9][.\-])(?:00)?86[ \-]?|(?<![0-9A-Za-z+])\(\+?86\) ?)"
    rf"(?:{_SOLID}|{_SPLIT})|(?=1)(?<![0-9+])(?<![0-9]\.)(?:{_SOLID}|{_ALONE}{_SPLIT})"
)
_AREA = r"(?:010|02[0-9]|0[3-9][0-9]{2})"
_LANDLINE = re.compile(
    r"(?=[+(08])(?:(?<![0-9A-Za-z+])(?:\+|00)86[ \-]?(?:10|2[0-9]|[3-9][0-9]{2})[ \-]?|"
    r"(?<![0-9A-Za-z.+])" + _ALONE + r"(?:86-(?:10|2[0-9]|[3-9][0-9]{2})-|"
    r"\(" + _AREA + r"\) ?|" + _AREA + r"(?:(?: - |[ \-])(?=[1-9])|(?=[2-9]))))"
    r"[1-9][0-9]{2,3}[ \-]?[0-9]{4}(?:(?:-|转|ext\.? ?)[0-9]{1,5})?" + _END + r"(?!-[0-9])"
)
# A number without its area code reads like any other, so a word must say that it is one: 电话是62345678.
_LOCAL = re.compile(
    r"(?=[电座传TtPpFf])(?:电话|座机|传真|(?<![A-Za-z])(?:[Tt]el|TEL|[Pp]hone|[Ff]ax))(?:号码|是|为|[:.,( ]){0,3}"
    r"(?P<number>[2-8][0-9]{2,3}[ \-]?[0-9]{4})(?![ \-]?[0-9A-Za-z])(?![.][0-9])(?!元|块|万|人|次)"
)
# E.164 with its plus sign, in groups; and the North American grouping without one (800 and 400 are hotlines).
_INTERNATIONAL = re.compile(
    r"(?<![0-9A-Za-z+])\+[1-9][0-9]{0,2}(?:[ \-.]?(?:\([0-9]{1,4}\)|[0-9]{1,4})){2,6}" + _END + _ALONE_END
)
_NORTH_AMERICA = re.compile(
    r"(?=[(1-9])(?<![0-9A-Za-z+.])"
    + _ALONE
    + r"(?:1[ \-.])?(?:\((?!800|400)[2-9][0-9]{2}\) ?|(?!800|400)[2-9][0-9]{2}[\-. ])"
    r"[2-9][0-9]{2}[\-.][0-9]{4}" + _END + _ALONE_END
)
# Letters that may stand right before a mobile number; others make it a part of an order or serial number.
_PHONE_WORD = re.compile(
    r"(?:^|[^A-Za-z0-9])(?:tel|phone|mobile|cell|call|wechat|wx|vx|qq|mob|ph|no|is|at)$", re.IGNORECASE
)
# One number in ten has a right check digit by chance, so a word that says what it is has the last word.
_OTHER_NUMBER = re.compile(
    r"(?:订单|运单|快递|流水|物流|工单|合同|交易|身份证|单号|order|tracking|invoice|waybill)"
    r"(?:号码?|编号|单号| ?(?:number|no\.?|id|#))?[ :#是为]{0,3}$",
    re.IGNORECASE,
)
_SEPARATORS = str.maketrans("", "", " -.()")


def id_cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _ID_CARD.finditer(text):
        if is_id_card(match[0].translate(_SEPARATORS)):
            yield match.span()


def bank_cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _BANK_CARD.finditer(text):
        start = match.start()
        if is_bank_card(match[0].translate(_SEPARATORS)) and not _OTHER_NUMBER.search(
            text[max(0, start - 24) : start]
        ):
            yield match.span()


def emails(text: str) -> Iterator[tuple[int, int]]:
    for match in _EMAIL.finditer(text):
        if ".." not in match[0] and ".@" not in match[0]:
            yield match.span()


def phones(text: str) -> Iterator[tuple[int, int]]:
    for match in _MOBILE.finditer(text):
        start = match.start()
        before = text[max(0, start - 12) : start]
        part_of_a_word = before[-1:].isascii() and before[-1:].isalpha() and text[start] != "+"
        if not part_of_a_word or _PHONE_WORD.search(before):
            yield match.span()
    for pattern in (_LANDLINE, _NORTH_AMERICA):
        yield from (match.span() for match in pattern.finditer(text))
    yield from (match.span("number") for match in _LOCAL.finditer(text))
    if "+" in text:
        for match in _INTERNATIONAL.finditer(text):
            if 8 <= sum(ch.isdigit() for ch in match[0]) <= 15:
                yield match.span()
