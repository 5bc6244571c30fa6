"""The decoding settings that a model has by itself, as its stored folder says. Knows no request and no SQL."""

from __future__ import annotations

import json

from services.gateway.shapes import Row
from shared.artifacts import Artifacts
from shared.contracts.generation_config import FILE, Settings, read_pinned
from shared.errors import HeliuError

# As much of a folder's listing as one of a model has.
LISTING_BYTES = 1 << 22


def decoding_of(store: Artifacts, model: Row) -> Settings | None:
    """What answers a request that does not say; an adapter without a file of its own has its base's. None of a model
    that gives no answers, or whose folder this platform cannot read, as an upstream's."""
    if model["kind"] not in ("base", "adapter"):
        return None
    try:
        own = _own(store, model["artifact"])
        if own is None and model["base_artifact"]:
            own = _own(store, model["base_artifact"])
    except (HeliuError, ValueError, KeyError, TypeError):
        return None
    return own or {}


def _own(store: Artifacts, artifact: str) -> Settings | None:
    paths = {item["path"] for item in json.loads(store.begins(artifact, LISTING_BYTES))["tree"]}
    return read_pinned(store.read_entry(artifact, FILE)) if FILE in paths else None
