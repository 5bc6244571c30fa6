"""Who asks: from the Authorization header to a caller. Everything that is not public needs a key; knows no route but
those that a labelling token is good for."""

from __future__ import annotations

import hmac
import re
import time
from dataclasses import dataclass
from uuid import UUID

from fastapi import Request

from services.gateway import keys_repository
from shared import keys
from shared.db import Database
from shared.errors import HeliuError

PUBLIC = frozenset(
    {
        "/healthz",
        "/readyz",
        "/docs",
        "/openapi.json",
        "/swagger/swagger-ui-bundle.js",
        "/swagger/swagger-ui.css",
        "/swagger/favicon-32x32.png",
    }
)
# One page for all projects, without any data in it: what it shows it asks for with the token of who signed in.
PUBLIC_PAGE = re.compile(r"/label/[A-Za-z0-9_-]{1,64}")
CACHE_S = 3.0
CACHE_KEYS = 10_000
HINT = "send `Authorization: Bearer hl_...`; `heliu keys create NAME` makes a key"


@dataclass(frozen=True)
class Caller:
    """A tenant's key at work. `key_id` None is the machine's own user with HELIU_AUTH=off.

    A labeller's token has the role `labeller` and the `project` in which alone it is good for anything.
    """

    tenant: UUID
    tenant_name: str
    key_id: str | None
    role: str
    requests_per_minute: int
    tokens_per_day: int | None
    max_live: int
    project: str | None = None

    @property
    def is_operator(self) -> bool:
        return self.role == "operator"


class Authenticator:
    """Looks keys up by their digest; remembers a key for CACHE_S, so that a revocation bites within that."""

    def __init__(self, db: Database, *, pepper: str, enabled: bool, requests_per_minute: int) -> None:
        self._db = db
        self._pepper = pepper
        self._enabled = enabled
        self._requests_per_minute = requests_per_minute
        self._known: dict[bytes, tuple[Caller, float]] = {}
        self._forgotten = 0

    def remembered(self, header: str | None) -> Caller | None:
        """The caller without a query, where it was seen a moment ago."""
        digest = self._digest(header)
        held = self._known.get(digest)
        return held[0] if held is not None and held[1] > time.monotonic() else None

    def authenticate(self, header: str | None) -> Caller:
        """One query. Raises HeliuError `authentication_required` or `invalid_api_key`."""
        digest, forgotten = self._digest(header), self._forgotten
        with self._db.core() as connection:
            if _is_labelling(header):
                row = keys_repository.find_labeller(connection, digest)
            elif digest:
                row = keys_repository.find_key(connection, digest)
            else:
                row = keys_repository.default_tenant(connection)
        if row is None or (digest and not hmac.compare_digest(bytes(row["digest"]), digest)):
            raise HeliuError(f"this API key is not valid, or was revoked; {HINT}", code="invalid_api_key")
        caller = Caller(
            tenant=row["tenant_id"],
            tenant_name=row["tenant_name"],
            key_id=row["id"],
            role=row["role"],
            requests_per_minute=row["requests_per_minute"] or self._requests_per_minute,
            tokens_per_day=row["tokens_per_day"],
            max_live=row["max_live"],
            project=row.get("project_id"),
        )
        if len(self._known) >= CACHE_KEYS:
            self._known.clear()
        if forgotten == self._forgotten:
            self._known[digest] = (caller, time.monotonic() + CACHE_S)
        return caller

    def check(self, header: str | None) -> Caller:
        """The caller, with a query where it was not seen a moment ago. Raises as `authenticate`."""
        return self.remembered(header) or self.authenticate(header)

    def forget(self) -> None:
        """Drop what is remembered: a key was just revoked. What is being looked up now is not remembered either."""
        self._forgotten += 1
        self._known.clear()

    def _digest(self, header: str | None) -> bytes:
        """The key's digest; empty with auth off, where only labellers say who they are. Raises for a missing or
        mistyped key, without a query."""
        if not self._enabled and not _is_labelling(header):
            return b""
        if not header:
            raise HeliuError(f"no API key was given; {HINT}", code="authentication_required")
        scheme, _, key = header.partition(" ")
        key = key.strip()
        prefix = keys.LABELLING_PREFIX if _is_labelling(header) else keys.PREFIX
        if scheme.lower() != "bearer" or not keys.well_formed(key, prefix):
            raise HeliuError(f"this is not an API key of this platform; {HINT}", code="invalid_api_key")
        return keys.digest(key, self._pepper)


def is_public(path: str) -> bool:
    """Paths that need no key."""
    return path in PUBLIC or PUBLIC_PAGE.fullmatch(path) is not None


def check_reach(caller: Caller, path: str) -> None:
    """Raise HeliuError `permission_denied` for a labelling token outside of its project's work."""
    if caller.project is None:
        return
    base = f"/v1/labelling/projects/{caller.project}/work"
    if path != base and not path.startswith(f"{base}/"):
        raise HeliuError(
            "a labelling token is good for the work of its own project alone", code="permission_denied"
        )


def _is_labelling(header: str | None) -> bool:
    return (header or "").partition(" ")[2].strip().startswith(keys.LABELLING_PREFIX)


def operator_only(request: Request) -> None:
    """Dependency of the operator's routes."""
    caller: Caller = request.state.caller
    if not caller.is_operator:
        raise HeliuError(
            f"{request.method} {request.url.path} needs an operator key; this key has the role 'tenant'",
            code="permission_denied",
        )
