"""Credit codes, vehicle plates, IP addresses and passports: where they stand in a narrow text. Pure.

Few of these have a check digit, so the words around a number decide: a version is no address, a part number no
passport. Every pattern is bounded.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from shared.text.pii.checks import is_credit_code

# Registering department and category, area, organisation, check (GB 32100-2015).
_CREDIT_CODE = re.compile(
    r"[1-9ANYany](?<![0-9A-Za-z].)[1-9][0-9]{6}[0-9A-HJ-NPQRTUWXYa-hj-npqrtuwxy]{10}(?![0-9A-Za-z])"
)
# GA 36-2018: five characters of which at most two are letters, the last may say what it is for (挂 trailer, 学
# learner, 警 police, 港澳 Hong Kong and Macau); new-energy cars have six, with a letter first or, if large, last.
_LETTER = "[A-HJ-NP-Za-hj-np-z]"
_PLATE = re.compile(
    rf"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼]{_LETTER}[ ·•\-]?"
    rf"(?:(?=[A-Za-z]{{0,2}}[0-9]|[0-9])(?:{_LETTER}|[0-9]){{4}}[挂学警港澳]|[A-Ka-k](?:{_LETTER}|[0-9])[0-9]{{4}}"
    rf"|[0-9]{{5}}[A-Ka-k]|(?:{_LETTER}|[0-9]){{5}})(?![0-9A-Za-z])"
)
# The provinces' characters also end other words: 更新A10023 and 北京A12345座 are no cars.
_NO_PLATE_BEFORE = re.compile(
    "(?:[更最全刷创重翻焕]新|[北东南]京|[里讯为度动]云|[收珍隐]藏|[昂宝珍]贵|[年]青|[安]宁)$"
)
_NO_PLATE_AFTER = re.compile("[座栋幢楼号室桌厅款型版期]")

# "IP" may stand right before an address; any other letter makes it a part of a word.
_BEFORE_ADDRESS = r"(?<![0-9.])(?:(?<![A-Za-z])|(?<=[Ii][Pp]))"
_IP4 = re.compile(
    _BEFORE_ADDRESS + r"(?<![0-9A-Fa-f]:)(?<!::)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9A-Za-z])(?!\.[0-9])"
)
_IP6 = re.compile(
    _BEFORE_ADDRESS + r"(?<![0-9A-Fa-f:]:)(?:[0-9A-Fa-f]{4}(?=:)|:(?=:[Ff]{4}:))"
    r"(?::[0-9A-Fa-f]{0,4}){1,7}(?:\.[0-9]{1,3}){0,3}(?![0-9A-Za-z:])"
)
_NO_ADDRESS_BEFORE = re.compile(
    r"(?:version|ver\.?|release|build|section|chapter|clause|firmware|update|v|§"
    r"|版本号?|固件|章节?|条款?|掩码|更新)[ :]{0,2}$",
    re.IGNORECASE,
)
_NO_ADDRESS_AFTER = re.compile(r" ?(?:版|节|章|固件)| of the ")

_PASSPORT_NUMBER = r"(?<![0-9A-Za-z])(?P<{}>[A-Za-z]{{1,2}}[0-9]{{7,8}})(?![0-9A-Za-z])"
_PASSPORT = re.compile(
    r"(?:护照|通行证|[Pp]assport|PASSPORT)[^0-9\n]{0,16}?" + _PASSPORT_NUMBER.format("number")
)
_PASSPORT_AFTER = re.compile(
    _PASSPORT_NUMBER.format("number") + r"(?:是|为|[ ,，(（)）]){0,3}(?:我|本人)?的?(?:护照|[Pp]assport)"
)


def credit_codes(text: str) -> Iterator[tuple[int, int]]:
    """Unified social credit codes with right check characters."""
    for match in _CREDIT_CODE.finditer(text):
        if is_credit_code(match[0]):
            yield match.span()


def plates(text: str) -> Iterator[tuple[int, int]]:
    """Plates of mainland vehicles, new-energy ones too."""
    if text.isascii():
        return
    for match in _PLATE.finditer(text):
        start, end = match.span()
        letters = sum(ch.isascii() and ch.isalpha() for ch in match[0][2:])
        if letters > 2 or _NO_PLATE_BEFORE.search(text, max(0, start - 1), start + 1):
            continue
        if not _NO_PLATE_AFTER.match(text, end):
            yield start, end


def ips(text: str) -> Iterator[tuple[int, int]]:
    """IPv4 and IPv6 addresses; versions, sections and netmasks are not."""
    if text.count(".") >= 3:
        yield from _ips(text, _IP4)
    if text.count(":") >= 2:
        yield from _ips(text, _IP6)


def _ips(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    for match in pattern.finditer(text):
        start, end = match.span()
        if not _is_address(match[0]) or _NO_ADDRESS_AFTER.match(text, end):
            continue
        if not _NO_ADDRESS_BEFORE.search(text[max(0, start - 12) : start]):
            yield start, end


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.version == 6 or not text.startswith(("0.", "255.255."))


def passports(text: str) -> Iterator[tuple[int, int]]:
    """Passports and travel permits that a word beside them calls so."""
    if "护照" in text or "通行证" in text or "assport" in text or "PASSPORT" in text:
        found = {m.span("number") for pattern in (_PASSPORT, _PASSPORT_AFTER) for m in pattern.finditer(text)}
        yield from sorted(found)
