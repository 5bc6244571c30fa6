"""Why a running job is asked to stop, and how a handler says that it has. Pure."""

from __future__ import annotations

from enum import StrEnum


class Stop(StrEnum):
    """Why a running job is asked to stop."""

    CANCEL = "cancel"
    PAUSE = "pause"
    DRAIN = "drain"
    PREEMPT = "preempt"
    LOST = "lost"
    TIME_LIMIT = "time_limit"
    STALLED = "stalled"


class Stopped(Exception):
    """Raised by a handler that has stopped because it was asked to."""

    def __init__(self, reason: Stop) -> None:
        super().__init__(reason.value)
        self.reason = reason


class ChildCrashed(Exception):
    """The child process of a handler died without an answer; counted apart from attempts."""
