"""Indexes that were read lately, up to so many bytes; the least recently used make room. Safe between threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from services.data_governance.retrieval.segment import Segment

MOST_BYTES = 256 * 1024 * 1024


class SegmentCache:
    """By artifact: what is stored under one never changes, so nothing here is ever stale."""

    def __init__(self, read: Callable[[str], Segment], most_bytes: int = MOST_BYTES) -> None:
        self._read = read
        self._most = most_bytes
        self._held: OrderedDict[str, Segment] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def get(self, artifact: str) -> Segment:
        """The index, read at its first use; one that is larger than the cache is read and not kept."""
        with self._lock:
            if artifact in self._held:
                self._held.move_to_end(artifact)
                return self._held[artifact]
        segment = self._read(artifact)
        with self._lock:
            if artifact not in self._held and segment.bytes <= self._most:
                self._held[artifact] = segment
                self.bytes += segment.bytes
                while self.bytes > self._most:
                    _, dropped = self._held.popitem(last=False)
                    self.bytes -= dropped.bytes
        return segment
