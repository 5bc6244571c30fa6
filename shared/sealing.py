"""Secrets at rest: sealed under a key of the installation, and bound to the row that they belong to. Knows no SQL.

AES-256-GCM with a random 96-bit nonce; keys are derived from the installation's secrets by HKDF-SHA256 (RFC 5869).
The first secret seals and every one opens, so a new secret is put in front, all is sealed again, and the old one goes.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import HeliuError

VERSION = "hs1"
NONCE_BYTES = 12
LEAST_SECRET = 16


class Unreadable(HeliuError):
    """A sealed secret that no key of this installation opens, or that belongs to another row."""

    code = "secret_unreadable"


class Sealer:
    """Thread-safe. `about` names what a secret belongs to: sealed for one thing, it opens for no other."""

    def __init__(self, installation_secrets: Sequence[str]) -> None:
        assert installation_secrets, "a sealer needs a secret"
        self._keys = {_name(secret): AESGCM(_derived(secret)) for secret in installation_secrets}
        self._first = _name(installation_secrets[0])

    def seal(self, text: str, about: str) -> str:
        """`hs1.<name of the key>.<nonce and ciphertext in base64url>`."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        body = nonce + self._keys[self._first].encrypt(nonce, text.encode(), about.encode())
        return f"{VERSION}.{self._first}.{base64.urlsafe_b64encode(body).decode()}"

    def open(self, sealed: str, about: str) -> str:
        """The text. Raises Unreadable, and never tells what it read."""
        version, _, rest = sealed.partition(".")
        name, _, body = rest.partition(".")
        if version != VERSION or name not in self._keys:
            raise Unreadable(
                f"the secret of {about} was sealed under a key that this process does not have; put that secret "
                "into HELIU_SECRET_KEY behind the new one, or set the credentials again"
            )
        try:
            raw = base64.urlsafe_b64decode(body)
            opened = self._keys[name].decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], about.encode())
        except (ValueError, InvalidTag) as exc:
            raise Unreadable(f"the secret of {about} is damaged; set the credentials again") from exc
        return opened.decode()

    def open_or_plain(self, held: str, about: str) -> str:
        """The same of what may have been stored before it was sealed."""
        return self.open(held, about) if is_sealed(held) else held

    def is_current(self, sealed: str) -> bool:
        """True when it is sealed under the first secret."""
        return sealed.startswith(f"{VERSION}.{self._first}.")


def is_sealed(text: str) -> bool:
    """Whether a text came from `seal`."""
    return text.startswith(f"{VERSION}.")


def _derived(secret: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"heliu secrets at rest").derive(
        secret.encode()
    )


def _name(secret: str) -> str:
    """Tells keys apart; from another derivation, so that it says nothing of the key."""
    return hashlib.sha256(b"heliu key name " + secret.encode()).hexdigest()[:8]
