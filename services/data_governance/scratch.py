"""A folder of one attempt of a job on this machine, and nothing left of those before it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_folder(work: Path, job_id: str, epoch: int) -> Iterator[Path]:
    """A folder for this attempt. What killed attempts left, unmasked rows among it, goes first.

    An attempt that lost its lease and still runs fails on its missing folder; it could publish nothing anyway.
    """
    for left in work.glob(f"{job_id}.*"):
        if int(left.suffix[1:]) < epoch:
            shutil.rmtree(left, ignore_errors=True)
    folder = work / f"{job_id}.{epoch}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
