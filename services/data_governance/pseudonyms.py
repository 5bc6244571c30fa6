"""Stable stand-ins for personal data: one person gets one, and without the salt it leads nowhere. Pure."""

from __future__ import annotations

import hashlib
import re

from shared.contracts.steps.mask_pii import PiiType
from shared.text.pii import narrow

# 26**10 is 47 bits: among a million people two share a pseudonym with a chance of 1 in 280.
LETTERS = 10
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_SEPARATORS = re.compile(r"[\s\-.·•()]")
_CHINA = re.compile(r"^(?:\+|00)?86(?=1[3-9][0-9]{9}$)|^\+86(?=[1-9])")


def pseudonym(kind: PiiType, written: str, salt: str) -> str:
    """Ten lower-case letters (no digit, so that no later step takes it for a number) of a keyed BLAKE2b.

    `salt` has 8 to 256 characters. How a number is written (spaces, width, +86) makes no difference.
    """
    key = hashlib.blake2b(salt.encode(), digest_size=32).digest()
    value = int.from_bytes(
        hashlib.blake2b(f"{kind}:{_plain(kind, written)}".encode(), key=key).digest()[:8], "big"
    )
    letters = []
    for _ in range(LETTERS):
        value, at = divmod(value, 26)
        letters.append(_ALPHABET[at])
    return "".join(letters)


def _plain(kind: PiiType, written: str) -> str:
    text = narrow(written).casefold()
    if kind in ("email", "ip", "name"):
        return text
    text = _SEPARATORS.sub("", text)
    return _CHINA.sub("", text) if kind == "phone" else text
