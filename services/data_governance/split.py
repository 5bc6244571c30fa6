"""Which split a row belongs to: a stable hash of its group, so that no group is in both. Pure."""

from __future__ import annotations

import hashlib

from shared.contracts.recipe import Split

TRAIN, VALIDATION = "train", "validation"


def assign(question: str, identity: str, split: Split, seed: int) -> str:
    """`train` or `validation` for a row with this question key and id.

    Depends on the group, the seed and the share alone: never on other rows.
    """
    group = question if split.by == "question" else identity
    digest = hashlib.blake2b(f"{seed}\n{split.by}\n{group}".encode(), digest_size=8).digest()
    return VALIDATION if int.from_bytes(digest, "big") < int(split.validation * 2**64) else TRAIN
