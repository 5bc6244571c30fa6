"""Which split a row belongs to: by a stable hash of its group, so that no group is in two; or by its time. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from services.data_governance.rows import Row
from services.data_governance.times import seconds_of
from shared.contracts.recipe import Split

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")


def assign(question: str, row: Row, split: Split, seed: int) -> str:
    """The split of a row with this question key. Depends on its group, the seed and the shares: never on other rows."""
    if split.by == "question":
        group = question
    elif split.by == "id":
        group = row.id
    else:
        group = json.dumps(_field(row, split.field), ensure_ascii=False)
    digest = hashlib.blake2b(f"{seed}\n{split.by}\n{group}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big")
    if place < int(split.validation * 2**64):
        return VALIDATION
    return TEST if place < int((split.validation + split.test) * 2**64) else TRAIN


def time_of(row: Row, split: Split) -> float:
    """The row's moment by the split's field; NaN where it has none: such a row trains, for nothing says it is new."""
    return seconds_of(_field(row, split.field))


def by_time(times: np.ndarray[Any, Any], alive: np.ndarray[Any, Any], split: Split) -> np.ndarray[Any, Any]:
    """Numbers of the splits (of SPLITS): the newest rows are the test, those before them validation.

    Rows of one moment stay together, so that a share may come out smaller than was asked for.
    """
    assigned = np.zeros(len(times), np.uint8)
    known = np.sort(times[alive & ~np.isnan(times)])
    if not len(known):
        return assigned
    for number, share in ((1, split.validation + split.test), (2, split.test)):
        if share > 0:
            # The last moment that is older than the share's rows.
            edge = known[max(0, len(known) - 1 - round(share * len(known)))]
            assigned[times > edge] = number
    return assigned


def _field(row: Row, name: str | None) -> Any:
    return json.loads(row.meta).get(name)
