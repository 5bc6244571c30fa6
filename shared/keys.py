"""API keys and labelling tokens: how they are made, checked for typing errors and hashed. Pure; knows no SQL."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import zlib

PREFIX = "hl_"
# A token that lets a person label in one project, and do nothing else.
LABELLING_PREFIX = "hll_"
SHOWN = 10


def new_key(prefix: str = PREFIX) -> str:
    """The prefix, 32 random bytes in base64url, and a checksum of them: 256 bits of strength."""
    body = secrets.token_urlsafe(32)
    return f"{prefix}{body}{_checksum(body)}"


def well_formed(key: str, prefix: str = PREFIX) -> bool:
    """True when the checksum fits, so that a mistyped key costs no query."""
    if not key.startswith(prefix) or len(key) > 80 or not key.isascii():
        return False
    body, checksum = key[len(prefix) : -6], key[-6:]
    return hmac.compare_digest(_checksum(body), checksum)


def digest(key: str, pepper: str) -> bytes:
    """HMAC-SHA256 of the key under the server's pepper: what the database holds."""
    return hmac.new(pepper.encode(), key.encode(), hashlib.sha256).digest()


def _checksum(body: str) -> str:
    return base64.urlsafe_b64encode(zlib.crc32(body.encode()).to_bytes(4, "big")).decode().rstrip("=")
