"""Which queues living workers take from, as their heartbeats say: so a request goes where somebody may serve it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from services.gateway.operator import repository as platform_repository
from shared.db import Database
from shared.errors import Unavailable

log = logging.getLogger(__name__)

# As old as this what is known may be; where it names nobody it is looked up anew, at most so often.
FRESH_S = 1.0
AGAIN_S = 0.2


class Placement:
    """Thread-safe. Knows queues alone: a worker's own are those of the bases that it names."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()
        self._living: frozenset[str] = frozenset()
        self._seen_at = float("-inf")

    def serving(self, queues: Sequence[str]) -> str | None:
        """The first of the queues that a living worker takes from. Raises Unavailable when nobody can tell."""
        if not self._fresh(queues):
            with self._lock:
                # Whoever held the lock may have looked for us too.
                if not self._fresh(queues):
                    self._look()
        return _first(queues, self._living)

    def _fresh(self, queues: Sequence[str]) -> bool:
        known = _first(queues, self._living) is not None
        return time.monotonic() - self._seen_at < (FRESH_S if known else AGAIN_S)

    def _look(self) -> None:
        asked_at = time.monotonic()
        try:
            with self._db.core() as connection:
                self._living = platform_repository.living_queues(connection)
        except Unavailable as exc:
            if self._seen_at == float("-inf"):
                raise
            # Workers live longer than most absences of Postgres: who was there a moment ago still is.
            log.warning("placement_unknown", extra={"error": exc.message})
        self._seen_at = asked_at


def _first(queues: Sequence[str], living: frozenset[str]) -> str | None:
    return next((queue for queue in queues if queue in living), None)
