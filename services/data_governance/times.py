"""What a column says of a moment, as one number that sorts."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

# Eight digits are a count or seconds, and not a date without its dashes.
_NUMBER = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,9})?")


def seconds_of(value: Any) -> float:
    """A number as it is (seconds since 1970, or a count); of an ISO 8601 text the seconds since 1970, UTC where it
    names no zone; NaN of anything else."""
    if isinstance(value, bool) or value is None:
        return math.nan
    if isinstance(value, int | float):
        return float(value)
    text = str(value).strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
