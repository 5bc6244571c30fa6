"""Finds and masks personal data of all types in one text. Pure.

Full-width digits are matched through a one-to-one translation, so a span fits the original text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from shared.contracts.steps.mask_pii import CORE_TYPES, PiiType
from shared.text.pii.names import names
from shared.text.pii.numbers import bank_cards, emails, id_cards, phones
from shared.text.pii.papers import credit_codes, ips, passports, plates

PLACEHOLDER: dict[PiiType, str] = {
    "email": "[EMAIL]",
    "phone": "[PHONE]",
    "id_card": "[ID_CARD]",
    "bank_card": "[BANK_CARD]",
    "credit_code": "[CREDIT_CODE]",
    "plate": "[PLATE]",
    "ip": "[IP]",
    "passport": "[PASSPORT]",
    "name": "[NAME]",
}
ALL_TYPES: tuple[PiiType, ...] = tuple(PLACEHOLDER)

# The samples of a report show rows as they came in, so invisible characters between digits are spaces here.
_WIDE = re.compile("[\uff01-\uff5e\u2010-\u2015\u2212\u3000\xa0\xad\u2000-\u200b\u202f\u205f\u2060\ufeff]")
_NARROW = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},
    **{code: ord("-") for code in (*range(0x2010, 0x2016), 0x2212)},
    **dict.fromkeys((*range(0x2000, 0x200C), 0x202F, 0x205F, 0x2060, 0x3000, 0xA0, 0xAD, 0xFEFF), ord(" ")),
}
_MARKS = tuple(zip("，：！？（）；", ",:!?();", strict=True))
# No number is personal data here without a plus sign or seven digits that stand close together; and of less than
# ten, only a local phone number that is called one.
_SOME_DIGITS = re.compile(r"\+[0-9]|[0-9](?:[ \-.·()]{0,3}[0-9]){6}")
_NUMBER = re.compile(r"\+[0-9]|[0-9](?:[ \-.·()]{0,3}[0-9]){9}")
# Without any of these a text has no personal data of the core types, and most texts have none.
_TRACE = re.compile("[0-9@\uff10-\uff19\uff20]")
_CORE = frozenset(CORE_TYPES)
_SPANS: dict[PiiType, Callable[[str], Iterator[tuple[int, int]]]] = {
    "id_card": id_cards,
    "credit_code": credit_codes,
    "bank_card": bank_cards,
    "email": emails,
    "phone": phones,
    "plate": plates,
    "ip": ips,
    "passport": passports,
    "name": names,
}


@dataclass(frozen=True, slots=True)
class Found:
    """Characters `start` to `end` (exclusive) of the text are of this type."""

    type: PiiType
    start: int
    end: int


def narrow(text: str) -> str:
    """`text`, character by character, with full-width forms, dashes and invisible spaces as their ASCII likes."""
    if text.isascii() or not _WIDE.search(text):
        return text
    # Most Chinese text has no more of them than these, and a table is slow.
    for wide, mark in _MARKS:
        text = text.replace(wide, mark)
    return text.translate(_NARROW) if _WIDE.search(text) else text


def might_have(text: str, types: Collection[PiiType] = CORE_TYPES) -> bool:
    """False when nothing in `text` can be personal data: a cheap look for texts that are many and mostly clean."""
    plain = narrow(text)
    if "@" in plain or _SOME_DIGITS.search(plain) is not None:
        return True
    return any(kind not in CORE_TYPES and next(_SPANS[kind](plain), None) is not None for kind in types)


def find(text: str, types: Collection[PiiType] = CORE_TYPES) -> list[Found]:
    """All personal data in `text`, in order, without overlaps. Strong evidence (checksums) wins over patterns."""
    if not _TRACE.search(text) and _CORE.issuperset(types):
        return []
    plain = narrow(text)
    kinds = _kinds(plain, types)
    if not kinds:
        return []
    found: list[Found] = []
    taken = bytearray(len(plain))
    for kind in kinds:
        # A core type that is not asked for still claims its digits: half an ID card is no phone number.
        for start, end in _SPANS[kind](plain):
            if not any(taken[start:end]):
                taken[start:end] = b"\1" * (end - start)
                found.append(Found(kind, start, end))
    return sorted((f for f in found if f.type in types), key=lambda f: f.start)


def _kinds(plain: str, types: Collection[PiiType]) -> list[PiiType]:
    """The types worth a search, the surest first."""
    kinds: list[PiiType] = []
    digits = _SOME_DIGITS.search(plain)
    if digits:
        long = _NUMBER.search(plain, digits.start()) is not None
        kinds += ["id_card"] if long else []
        kinds += ["credit_code"] if "credit_code" in types else []
        kinds += ["bank_card"] if long else []
    if "@" in plain:
        kinds.append("email")
    if "ip" in types:
        kinds.append("ip")
    if digits:
        kinds.append("phone")
    return kinds + [kind for kind in ("plate", "passport", "name") if kind in types]


def mask(text: str, types: Collection[PiiType] = CORE_TYPES) -> tuple[str, dict[PiiType, int]]:
    """`text` with placeholders, and how many of each type were replaced."""
    found = find(text, types)
    if not found:
        return text, {}
    counts: dict[PiiType, int] = {}
    for item in found:
        counts[item.type] = counts.get(item.type, 0) + 1
    return replace(text, found, lambda kind, _: PLACEHOLDER[kind]), counts


def replace(text: str, found: Sequence[Found], written: Callable[[PiiType, str], str]) -> str:
    """`text` with what `written(type, characters)` gives in the place of each of `found`."""
    parts, at = [], 0
    for item in found:
        parts += [text[at : item.start], written(item.type, text[item.start : item.end])]
        at = item.end
    return "".join([*parts, text[at:]])
