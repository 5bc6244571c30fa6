"""`python -m tests.chaos.full_disk_worker`: a worker whose artifact store is a tmpfs of one MiB that only it sees.

A no-op job of N steps stores N times 256 KiB. Ends with 77 where the system lets nobody mount.
"""

from __future__ import annotations

import ctypes
import io
import os
import secrets
import sys

from shared.artifacts import ArtifactStore
from shared.contracts.core import Noop
from shared.job_context import JobContext, Outcome
from shared.settings import read_settings
from shared.worker import Platform, Worker, WorkerSpec, open_platform

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
PART = 256 * 1024
CANNOT_MOUNT = 77


def mount_small(folder: str) -> bool:
    """Mount a tmpfs of one MiB on `folder` for this process alone; False where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    spaces = CLONE_NEWNS if os.geteuid() == 0 else CLONE_NEWNS | CLONE_NEWUSER
    if libc.unshare(spaces) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        return False
    return libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"size=1m") == 0


def store(platform: Platform, ctx: JobContext, job: Noop) -> Outcome:
    for _ in range(job.steps):
        platform.artifacts.put(io.BytesIO(secrets.token_bytes(PART)))
    return Outcome({"steps": job.steps})


def main() -> int:
    settings = read_settings(os.environ)
    store_id = ArtifactStore(settings.artifact_folder).store_id()
    # Before any thread: only a process with a single one may leave its name space.
    if not mount_small(str(settings.artifact_folder)):
        return CANNOT_MOUNT
    (settings.artifact_folder / "store_id").write_text(store_id)
    platform = open_platform(settings, "monitoring")

    def handler(ctx: JobContext, job: Noop) -> Outcome:
        return store(platform, ctx, job)

    return Worker(platform, WorkerSpec("monitoring", {"monitoring": 1}), {Noop: handler}).run()


if __name__ == "__main__":
    sys.exit(main())
