"""Normal forms of what tells people and firms apart: phone numbers, addresses, names. Pure."""

from __future__ import annotations

import re
import unicodedata

import phonenumbers

TITLES = frozenset(
    ("mr", "mrs", "ms", "miss", "dr", "prof", "sir", "madam", "herr", "frau", "jr", "sr", "phd", "md")
)
CHINESE_TITLES = re.compile(r"(?<=.)(先生|女士|小姐|太太|老师|教授|博士|医生|经理|总经理|主任|同学)$")
EMAIL = re.compile(r"[^\s@,;<>]+@[^\s@,;<>]+\.[^\s@,;<>]+")
LEAST_NAME = 2


def phone(text: str, region: str) -> str | None:
    """E.164, such as +8613800138000; None for what is no number that anybody can have.

    Full-width digits are digits. A number without a country is one of `region`.
    """
    try:
        parsed = phonenumbers.parse(unicodedata.normalize("NFKC", text), region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(parsed):
        return None
    return str(phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164))


def email(text: str) -> str | None:
    """In lower case and half width; None for what is no address."""
    plain = unicodedata.normalize("NFKC", text).strip().casefold()
    return plain if EMAIL.fullmatch(plain) else None


def name(text: str) -> str | None:
    """Without width, case, spaces, marks and titles; None for a single letter, which tells nobody apart."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = [word for word in re.split(r"[\W_]+", plain) if word and word not in TITLES]
    joined = CHINESE_TITLES.sub("", "".join(words))
    return joined if len(joined) >= LEAST_NAME else None


def normal(kind: str, text: str, region: str) -> str | None:
    """The normal form of a kind of key."""
    if kind == "phone":
        return phone(text, region)
    if kind == "email":
        return email(text)
    return name(text) if kind == "name" else text.strip() or None
