"""Repairs text that was decoded with the wrong encoding, where the bytes prove it, and finds what is beyond repair.

Three mistakes are known: UTF-8 read as Latin-1 or Windows-1252, GBK read as Latin-1 or Windows-1252, and UTF-8
read as GBK. A repair is made where a whole run of characters goes back to bytes that are strictly valid in the
right encoding and give ordinary characters.
"""

from __future__ import annotations

import re
import unicodedata


def _cp1252_bytes() -> dict[str, int]:
    """Each character to its byte, Latin-1 standing in for what Windows-1252 leaves undefined (as browsers do)."""
    table = {chr(code): code for code in range(0x80, 0x100)}
    for code in range(0x80, 0xA0):
        try:
            table[bytes([code]).decode("cp1252")] = code
        except UnicodeDecodeError:
            continue
    return table


_BYTES = _cp1252_bytes()


def _class(low: int, high: int) -> str:
    return "[" + "".join(re.escape(ch) for ch, code in _BYTES.items() if low <= code <= high) + "]"


def _gbk_class() -> str:
    """The GBK characters whose first byte opens a three-byte UTF-8 sequence of CJK text and whose second goes on."""
    pairs = (
        bytes([lead, trail]) for lead in range(0xE3, 0xF0) for trail in range(0x80, 0xC0) if trail != 0x7F
    )
    return "[" + "".join(sorted({pair.decode("gb18030") for pair in pairs})) + "]"


_NEXT = _class(0x80, 0xBF)
_UTF8_RUN = re.compile(f"(?:[ÂÃ]{_NEXT}|{_class(0xE0, 0xEF)}{_NEXT}{{2}}|ð{_NEXT}{{3}})+")
# Two leads of Cyrillic and Greek: alone they are letters, three sequences in a row they are mojibake.
_UTF8_LETTERS = re.compile(f"(?:[ÐÑÎÏ]{_NEXT}){{3,}}")
# A whole run, not a part of one: the bytes of other mistakes would pair up by chance.
_GBK_RUN = re.compile(
    f"(?<!{_class(0x80, 0xFF)})(?:{_class(0xA1, 0xF7)}{_class(0xA1, 0xFE)}){{2,}}(?!{_class(0x80, 0xFF)})"
)
_SUSPECT_LATIN = re.compile("[\u0080-\u00ff]")
_UTF8_AS_GBK = re.compile(_gbk_class())
_WIDE_RUN = re.compile(r"[^\x00-\x7f]+")
_LOST = re.compile("\ufffd|锟斤|斤拷|烫烫烫|屯屯屯")
_QUESTION_MARKS = re.compile(r"(?:[^\w?]*\?){6,}[^\w?]*")
# What is left of Chinese text when some of its bytes were eaten; it counts only beside whole Chinese characters.
_RESIDUE = re.compile("[ä-é][\x80-\xaa\xac-\xaf\xb1-\xb6\xb8-\xba\xbc-\xbf]")
_HANZI = re.compile("[\u4e00-\u9fff]")
# First characters of ，。“ in UTF-8 when read as GBK: nobody writes them.
_GBK_MARKS = re.compile("[锛銆鈥]")
_PASSES = 3


def repair(text: str) -> str:
    """`text` with every certain mojibake undone (also when it happened twice); itself when there is none."""
    if text.isascii():
        return text
    for _ in range(_PASSES):
        better = text
        if _SUSPECT_LATIN.search(better):
            better = _GBK_RUN.sub(_gbk_run, better)
            better = _UTF8_RUN.sub(_utf8_run, better)
            better = _UTF8_LETTERS.sub(_utf8_run, better)
        if _UTF8_AS_GBK.search(better):
            better = _WIDE_RUN.sub(_utf8_read_as_gbk, better)
        if better == text:
            break
        text = better
    return text


def damage(text: str) -> str | None:
    """Why this text cannot be trusted any more, or None. Text should have gone through `repair` first."""
    if not text.isascii() and _LOST.search(text):
        return "it has replacement characters, so letters were lost when it was decoded"
    if "?????" in text and _QUESTION_MARKS.fullmatch(text):
        return "nothing but question marks, so letters were lost when it was encoded"
    if text.isascii():
        return None
    latin = _SUSPECT_LATIN.search(text)
    for run in _WIDE_RUN.findall(text) if latin or _UTF8_AS_GBK.search(text) else ():
        suspects = len(_UTF8_AS_GBK.findall(run))
        if suspects * 4 >= len(run) and (suspects >= 3 or (suspects >= 2 and _GBK_MARKS.search(run))):
            return "it is UTF-8 read as GBK, with bytes lost"
        if len(run) >= 6 and len(_UTF8_RUN.sub("", run)) * 2 < len(run):
            return "it is UTF-8 read as Windows-1252, with bytes lost"
    if latin and _RESIDUE.search(text) and _HANZI.search(text):
        return "parts of it are UTF-8 read as Windows-1252, with bytes lost"
    return None


def _utf8_run(match: re.Match[str]) -> str:
    try:
        fixed = bytes(_BYTES[ch] for ch in match[0]).decode("utf-8")
    except UnicodeDecodeError:
        return match[0]
    if not _ordinary(fixed):
        # Control characters are what a mistake made twice leaves in between.
        fixed = _UTF8_RUN.sub(_utf8_run, fixed)
    return fixed if _ordinary(fixed) else match[0]


def _gbk_run(match: re.Match[str]) -> str:
    """Only if every pair is a common (GB 2312 level 1) Chinese character or Chinese punctuation."""
    raw = bytes(_BYTES[ch] for ch in match[0])
    leads = raw[::2]
    common = all(0xB0 <= lead <= 0xD7 or lead in (0xA1, 0xA3) for lead in leads)
    if not common or sum(lead >= 0xB0 for lead in leads) < 2:
        return match[0]
    try:
        return raw.decode("gb2312")
    except UnicodeDecodeError:
        return match[0]


def _utf8_read_as_gbk(match: re.Match[str]) -> str:
    try:
        fixed = match[0].encode("gb18030").decode("utf-8")
    except UnicodeError:
        return match[0]
    # Two GBK characters make four bytes, of which chance could make UTF-8; three characters of CJK are proof.
    certain = len(match[0]) >= 3 and len(fixed) < len(match[0]) and _ordinary(fixed)
    return fixed if certain else match[0]


def _ordinary(text: str) -> bool:
    return all(unicodedata.category(ch) not in {"Cc", "Cn", "Co", "Cs"} for ch in text)
