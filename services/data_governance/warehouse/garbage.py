"""Objects of the store that nothing reaches. Knows no database: what is named is handed in.

Garbage is what no row of any tenant names, by every text and JSON column that the catalogue has, read as each tenant.
An object is taken away under a lock that writers share, and only when its bytes, and the deletion of its last row, are
older than the grace.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from shared.artifacts import Artifacts

SHOWN = 100


@dataclass(frozen=True, slots=True)
class Swept:
    """What was (or would be) removed, and what stays; `shown` are the first ids of the former."""

    objects: int
    bytes: int
    kept: int
    too_young: int
    shown: list[str]


def reach(store: Artifacts, named: Collection[str], look: Callable[[], None]) -> set[str]:
    """The named artifacts and the objects of those that are trees."""
    reached = set(named)
    for artifact in named:
        look()
        reached.update(store.parts_of(artifact))
    return reached


def sweep(
    store: Artifacts, reached: Collection[str], before: float, *, dry_run: bool, look: Callable[[], None]
) -> Swept:
    """Remove what is not reached and was written before this moment (unix seconds)."""
    objects = size = kept = young = 0
    shown: list[str] = []
    for item in store.stored():
        look()
        if item.artifact in reached:
            kept += 1
        elif item.written_at >= before or not (dry_run or store.remove(item.artifact, before)):
            young += 1
        else:
            objects += 1
            size += item.bytes
            shown += [item.artifact] if len(shown) < SHOWN else []
    return Swept(objects, size, kept, young, shown)


def clear_cache(cache: Path, reached: Collection[str], before: float) -> int:
    """Remove folders of trees that nothing reaches from this machine's cache; returns how many."""
    removed = 0
    for folder in cache.iterdir() if cache.is_dir() else ():
        tree = f"sha256:{folder.name}"
        if len(folder.name) == 64 and tree not in reached and folder.stat().st_mtime < before:
            shutil.rmtree(folder, ignore_errors=True)
            (cache / "row-index" / f"{folder.name}.npy").unlink(missing_ok=True)
            removed += 1
    return removed
