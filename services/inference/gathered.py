"""What the engine says of one request's texts, put together: their `done` frames, usage, times and spans. Pure."""

from __future__ import annotations

from typing import Any

from services.inference.choices import index_of
from shared.frames import Frame


class Gathered:
    """Collects the `done` frames of `count` calls, one for each text."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._done: dict[int, Frame] = {}

    def take(self, done: Frame) -> bool:
        """Add one; True when it was the last."""
        self._done[index_of(done["id"])] = done
        return len(self._done) == self._count

    @property
    def ordered(self) -> list[Frame]:
        """The frames in the order of the texts."""
        return [self._done[index] for index in range(self._count)]

    def costs(self) -> dict[str, Any]:
        """{"usage", "timings"} of all texts together."""
        timings = [done["timings"] for done in self._done.values()]
        queued = min(timing["queue_s"] for timing in timings)
        ended = max(timing["queue_s"] + timing["compute_s"] for timing in timings)
        tokens = sum(done["usage"]["prompt_tokens"] for done in self._done.values())
        return {
            "usage": {"prompt_tokens": tokens, "completion_tokens": 0},
            "timings": {"queue_s": queued, "compute_s": ended - queued},
        }

    def result(self) -> dict[str, Any]:
        """What is answered, with its costs."""
        raise NotImplementedError

    def spans(self) -> list[dict[str, Any]]:
        """What the engine did, one span of each kind from the first text's to the last one's."""
        whole: dict[str, dict[str, Any]] = {}
        for done in self._done.values():
            for part in done["spans"]:
                span = whole.setdefault(part["name"], {**part, "attributes": {"inputs": self._count}})
                span["start_ns"] = min(span["start_ns"], part["start_ns"])
                span["end_ns"] = max(span["end_ns"], part["end_ns"])
        return list(whole.values())
