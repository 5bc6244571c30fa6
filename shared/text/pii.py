"""Finds e-mail addresses, phone numbers, ID-card and bank-card numbers in Chinese and English text. Pure.

Digit look-arounds, never a word boundary: in Python a Chinese character is a word character, so `\\b` misses
the number in `联系电话13800138000谢谢`. Full-width digits are matched through a one-to-one translation, so a
span fits the original text. Every pattern is bounded, so that no text makes it run for long.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from shared.contracts.steps.mask_pii import PiiType

PLACEHOLDER: dict[PiiType, str] = {
    "email": "[EMAIL]",
    "phone": "[PHONE]",
    "id_card": "[ID_CARD]",
    "bank_card": "[BANK_CARD]",
}
ALL_TYPES: tuple[PiiType, ...] = tuple(PLACEHOLDER)

# The samples of a report show rows as they came in, so invisible characters between digits are spaces here.
_WIDE = re.compile("[\uff01-\uff5e\u2010-\u2015\u2212\u3000\xa0\xad\u2000-\u200b\u202f\u205f\u2060\ufeff]")
_NARROW = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},
    **{code: ord("-") for code in (*range(0x2010, 0x2016), 0x2212)},
    **dict.fromkeys((*range(0x2000, 0x200C), 0x202F, 0x205F, 0x2060, 0x3000, 0xA0, 0xAD, 0xFEFF), ord(" ")),
}
# No number is personal data here without a plus sign or seven digits that stand close together; and of less than
# ten, only a local phone number that is called one.
_SOME_DIGITS = re.compile(r"\+[0-9]|[0-9](?:[ \-.·()]{0,3}[0-9]){6}")
_NUMBER = re.compile(r"\+[0-9]|[0-9](?:[ \-.·()]{0,3}[0-9]){9}")

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

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECK = "10X98765432"
_PROVINCES = frozenset(
    str(code)
    for first, last in (
        (11, 15),
        (21, 23),
        (31, 37),
        (41, 46),
        (50, 54),
        (61, 65),
        (71, 71),
        (81, 83),
        (91, 91),
    )
    for code in range(first, last + 1)
)
# Issuer ranges and lengths (ISO/IEC 7812): UnionPay, Visa, Mastercard, American Express, JCB, Diners, Discover.
_ISSUERS = re.compile(
    r"62[0-9]{11,17}|60[0-9]{14,17}|4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2[2-7][0-9]{14}"
    r"|3[47][0-9]{13}|35[0-9]{14}|3(?:0[0-5]|[68][0-9])[0-9]{11}|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}"
    r"|(?:9558|955[0-9]|6[0-9]{3})[0-9]{12,15}"
)
_SEPARATORS = str.maketrans("", "", " -.()")


@dataclass(frozen=True, slots=True)
class Found:
    """Characters `start` to `end` (exclusive) of the text are of this type."""

    type: PiiType
    start: int
    end: int


def narrow(text: str) -> str:
    """`text`, character by character, with full-width forms, dashes and invisible spaces as their ASCII likes."""
    return text if text.isascii() or not _WIDE.search(text) else text.translate(_NARROW)


def might_have(text: str) -> bool:
    """False when nothing in `text` can be personal data: a cheap look for texts that are many and mostly clean."""
    plain = narrow(text)
    return "@" in plain or _SOME_DIGITS.search(plain) is not None


def find(text: str, types: Collection[PiiType] = ALL_TYPES) -> list[Found]:
    """All personal data in `text`, in order, without overlaps. Strong evidence (checksums) wins over patterns."""
    plain = narrow(text)
    kinds: tuple[PiiType, ...] = ("email",) if "@" in plain else ()
    if digits := _SOME_DIGITS.search(plain):
        long = _NUMBER.search(plain, digits.start())
        kinds = ("id_card", "bank_card", *kinds, "phone") if long else (*kinds, "phone")
    if not kinds:
        return []
    found: list[Found] = []
    taken = bytearray(len(plain))
    for kind in kinds:
        # A type that is not asked for still claims its digits: half an ID card is no phone number.
        for start, end in _SPANS[kind](plain):
            if not any(taken[start:end]):
                taken[start:end] = b"\1" * (end - start)
                found.append(Found(kind, start, end))
    return sorted((f for f in found if f.type in types), key=lambda f: f.start)


def mask(text: str, types: Collection[PiiType] = ALL_TYPES) -> tuple[str, dict[PiiType, int]]:
    """`text` with placeholders, and how many of each type were replaced."""
    found = find(text, types)
    if not found:
        return text, {}
    counts: dict[PiiType, int] = {}
    parts, at = [], 0
    for item in found:
        parts += [text[at : item.start], PLACEHOLDER[item.type]]
        at = item.end
        counts[item.type] = counts.get(item.type, 0) + 1
    return "".join([*parts, text[at:]]), counts


def is_id_card(number: str) -> bool:
    """18 characters with a province, a real date of birth and the MOD 11-2 check character (GB 11643-1999)."""
    if len(number) != 18 or number[:2] not in _PROVINCES:
        return False
    try:
        datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(number, _ID_WEIGHTS, strict=False))
    return _ID_CHECK[total % 11] == number[17].upper()


def is_bank_card(number: str) -> bool:
    """13 to 19 digits of a known issuer range with the Luhn check digit (ISO/IEC 7812-1)."""
    if not _ISSUERS.fullmatch(number) or len(set(number)) < 2:
        return False
    doubled = (sum(divmod(2 * int(d), 10)) for d in number[-2::-2])
    return (sum(int(d) for d in number[::-2]) + sum(doubled)) % 10 == 0


def _id_cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _ID_CARD.finditer(text):
        if is_id_card(match[0].translate(_SEPARATORS)):
            yield match.span()


def _bank_cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _BANK_CARD.finditer(text):
        if is_bank_card(match[0].translate(_SEPARATORS)):
            yield match.span()


def _emails(text: str) -> Iterator[tuple[int, int]]:
    for match in _EMAIL.finditer(text):
        if ".." not in match[0] and ".@" not in match[0]:
            yield match.span()


def _phones(text: str) -> Iterator[tuple[int, int]]:
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


_SPANS = {"id_card": _id_cards, "bank_card": _bank_cards, "email": _emails, "phone": _phones}
