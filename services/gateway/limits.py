"""How much a key may ask: requests a minute and tokens a day, counted in Postgres. Knows no route."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from services.gateway import keys_repository
from services.gateway.auth import Caller
from services.gateway.errors import RateLimited
from shared.db import Database


@dataclass(frozen=True)
class Budget:
    """What is left of a minute, for the headers."""

    limit: int
    remaining: int
    reset_s: float

    def headers(self) -> dict[str, str]:
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": f"{self.reset_s:.0f}s",
        }


@dataclass
class _Grant:
    """Requests of this minute that this process may let through without asking; 0 with `used_up` refuses."""

    left: int
    ends_at: float
    counted: int
    used_up: bool = False


class RateLimiter:
    """Takes a hundredth of the limit from Postgres at a time, so that few requests cost a query."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._grants: dict[str, _Grant] = {}
        self._lock = threading.Lock()
        self._refills: dict[str, threading.Lock] = {}

    def take_granted(self, caller: Caller) -> Budget | None:
        """Count one request against what was granted before; None when Postgres must be asked.

        Raises RateLimited for a key whose minute is used up.
        """
        if caller.key_id is None:
            return Budget(caller.requests_per_minute, caller.requests_per_minute, 60.0)
        with self._lock:
            grant = self._grants.get(caller.key_id)
            if grant is None or grant.ends_at <= time.monotonic():
                return None
            if grant.used_up:
                raise _refused(caller, grant.ends_at - time.monotonic())
            if grant.left <= 0:
                return None
            grant.left -= 1
            return _budget(caller, grant)

    def take(self, caller: Caller) -> Budget:
        """Count one request, with a query where no other thread has just made it. Raises RateLimited."""
        assert caller.key_id is not None
        with self._refills.setdefault(caller.key_id, threading.Lock()):
            return self.take_granted(caller) or self._refill(caller, caller.key_id)

    def _refill(self, caller: Caller, key_id: str) -> Budget:
        block = max(1, caller.requests_per_minute // 100)
        with self._db.core() as connection:
            counted, left_s = keys_repository.take(connection, key_id, block)
        granted = block - max(0, counted - caller.requests_per_minute)
        grant = _Grant(
            left=granted - 1,
            ends_at=time.monotonic() + left_s,
            counted=min(counted, caller.requests_per_minute),
            used_up=granted <= 0,
        )
        with self._lock:
            if len(self._grants) > 10_000:
                self._grants.clear()
            self._grants[key_id] = grant
        if granted <= 0:
            raise _refused(caller, left_s)
        return _budget(caller, grant)

    def check_tokens(self, caller: Caller) -> None:
        """Raise RateLimited (`insufficient_quota`) for a key that has used up its tokens of the day."""
        if caller.key_id is None or caller.tokens_per_day is None:
            return
        with self._db.core() as connection:
            used, left_s = keys_repository.tokens_today(connection, caller.key_id)
        if used >= caller.tokens_per_day:
            raise RateLimited(
                f"this key has used {used} of its {caller.tokens_per_day} tokens a day; "
                "they count anew from midnight UTC",
                code="insufficient_quota",
                retry_after_s=left_s,
            )


def _budget(caller: Caller, grant: _Grant) -> Budget:
    remaining = caller.requests_per_minute - grant.counted + max(grant.left, 0)
    return Budget(caller.requests_per_minute, max(0, remaining), max(0.0, grant.ends_at - time.monotonic()))


def _refused(caller: Caller, left_s: float) -> RateLimited:
    return RateLimited(
        f"this key may make {caller.requests_per_minute} requests a minute; the next minute starts in "
        f"{left_s:.0f} s",
        retry_after_s=left_s,
    )
