"""The ledger: one row per answer of a model, written in batches behind the answers. Never holds text."""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import astuple, dataclass
from uuid import UUID

from services.gateway import keys_repository
from services.gateway.answering import usage_repository
from shared.db import Database, retrying
from shared.errors import Unavailable

log = logging.getLogger(__name__)

FLUSH_S = 0.5
BATCH = 500
HELD_AT_MOST = 100_000
SWEEP_S = 300.0


@dataclass(frozen=True)
class UsageRow:
    """What one answer cost. `request_id` is unique for a tenant, so a row is never counted twice."""

    tenant_id: UUID
    api_key_id: str | None
    request_id: str
    endpoint: str
    model: str
    model_artifact: str
    pool: str
    status: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    first_token_seconds: float | None
    trace_id: str
    # A JSON object: which task and version it was, and what guard ended it.
    metadata: str = "{}"
    # Of a generated answer: what lineage leads back from.
    answer_id: str | None = None


class UsageWriter:
    """A thread that writes rows every FLUSH_S; rows outlive a Postgres that is away, up to HELD_AT_MOST."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._rows: queue.SimpleQueue[UsageRow] = queue.SimpleQueue()
        self._held: list[UsageRow] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="usage", daemon=True)
        self._thread.start()

    def add(self, row: UsageRow) -> None:
        """Write the row soon. Never blocks."""
        self._rows.put(row)

    def _work(self) -> None:
        waited = SWEEP_S
        while not self._closed.wait(FLUSH_S):
            waited += FLUSH_S
            try:
                self.flush()
                if waited >= SWEEP_S:
                    waited = 0.0
                    with self._db.core() as connection:
                        keys_repository.forget_windows(connection)
            except Unavailable as exc:
                log.warning("usage_waits", extra={"rows": len(self._held), "error": exc.message})
            except Exception:
                log.exception("usage_failed")

    def flush(self) -> int:
        """Write all that is waiting; returns how many rows. Raises Unavailable and keeps them."""
        while not self._rows.empty():
            self._held.append(self._rows.get())
        if len(self._held) > HELD_AT_MOST:
            log.error("usage_dropped", extra={"rows": len(self._held) - HELD_AT_MOST})
            del self._held[:-HELD_AT_MOST]
        written = 0
        while self._held:
            batch = self._held[:BATCH]
            with self._db.core() as connection:
                usage_repository.insert_usage(connection, [astuple(row) for row in batch])
            del self._held[: len(batch)]
            written += len(batch)
        return written

    def close(self) -> None:
        """Stop the thread and write what is left."""
        self._closed.set()
        self._thread.join(15)
        try:
            retrying(self.flush, attempts=5, patience=0.2)
        except Unavailable as exc:
            log.error("usage_lost", extra={"rows": len(self._held), "error": exc.message})
