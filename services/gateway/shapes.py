"""What the objects that clients see are made of, whatever their domain: each has its own `shapes`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

Row = Mapping[str, Any]
Shape = dict[str, Any]


def unix(moment: datetime | None) -> int | None:
    """Whole seconds since 1970, as OpenAI writes times."""
    return int(moment.timestamp()) if moment is not None else None
