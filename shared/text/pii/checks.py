"""Check digits and ranges of numbers that people carry. Pure; no text around a number is seen here."""

from __future__ import annotations

import datetime
import re

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
_CODE_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_CODE_VALUES = {letter: value for value, letter in enumerate(_CODE_ALPHABET)}
_CODE_WEIGHTS = tuple(pow(3, at, 31) for at in range(17))
_ORGANISATION_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)


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


def is_credit_code(code: str) -> bool:
    """A unified social credit code: 18 characters with both check characters.

    The last by MOD 31 (GB 32100-2015), the ninth of the organisation's part by MOD 11 (GB 11714-1997).
    """
    code = code.upper()
    if len(code) != 18 or any(letter not in _CODE_VALUES for letter in code) or code[2:4] not in _PROVINCES:
        return False
    total = sum(_CODE_VALUES[c] * w for c, w in zip(code, _CODE_WEIGHTS, strict=False))
    if _CODE_ALPHABET[-total % 31] != code[17]:
        return False
    # In the organisation's part a letter stands for its place in the whole alphabet, after the ten digits.
    total = sum(int(c, 36) * w for c, w in zip(code[8:16], _ORGANISATION_WEIGHTS, strict=True))
    return "0123456789X0"[(11 - total % 11)] == code[16]
