"""From a trial's parameters to the payload of its training job. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from shared.contracts.searches import RunSearch


def payload_of(search: RunSearch, params: Mapping[str, Any]) -> dict[str, Any]:
    """The searched job's payload with a trial's parameters, given by path, put where they belong."""
    payload = copy.deepcopy(search.job)
    for one in search.space:
        for place, value in one.patch(params[one.path]).items():
            *way, name = place.split(".")
            inner: dict[str, Any] = payload
            for part in way:
                inner = inner[part]
            inner[name] = copy.deepcopy(value)
    return payload
