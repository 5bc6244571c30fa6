"""`python -m services.monitoring.main`: takes no-op jobs, keeps spans, rolls minutes up, raises alerts."""

from __future__ import annotations

import os
import sys
from functools import partial

from services.monitoring import tasks
from shared.contracts.base import JobContract
from shared.contracts.core import Noop
from shared.errors import HeliuError
from shared.runner import Handler
from shared.settings import read_settings
from shared.worker import Worker, WorkerSpec, open_platform

SLOTS = 4


def main() -> int:
    try:
        settings = read_settings(os.environ)
        slots = settings.slots or SLOTS
        platform = open_platform(settings, "monitoring", max_connections=slots + 6)
    except HeliuError as exc:
        sys.stderr.write(f"monitoring: {exc.message}\n")
        return 78
    handlers: dict[type[JobContract], Handler] = {Noop: partial(tasks.noop, platform)}
    return Worker(platform, WorkerSpec("monitoring", {Noop.queue_for(): slots}), handlers).run()


if __name__ == "__main__":
    sys.exit(main())
