"""How a sync hears that it shall stop, waits, and tells how far it is. Knows no job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Watch:
    """`check` raises when the sync shall stop; `pause` waits that many seconds, or less when it shall stop;
    `progress` is told the rows read so far."""

    check: Callable[[], None]
    pause: Callable[[float], None]
    progress: Callable[[int], None]
