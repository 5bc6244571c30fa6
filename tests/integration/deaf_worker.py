"""A worker process whose Celery never consumes, as behind a connection that died in silence, and a short patience."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from shared.contracts.core import Noop
from shared.job_context import JobContext, Outcome
from shared.settings import read_settings
from shared.watchdog import Watchdog
from shared.worker import Worker, WorkerSpec, open_platform


class Deaf(Worker):
    """Says that it is ready and hears nothing."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        ready: Callable[[], None] = self._ready

        def hear_nothing() -> int:
            ready()
            threading.Event().wait()
            return 0

        self._queue.run = hear_nothing  # type: ignore[method-assign]


def main() -> int:
    settings = read_settings(os.environ)

    def noop(context: JobContext, job: Noop) -> Outcome:
        return Outcome()

    platform = open_platform(settings, "monitoring")
    dog = Watchdog(knock_s=0.5, deaf_s=3.0)
    return Deaf(platform, WorkerSpec("monitoring", {"monitoring": 1}), {Noop: noop}, watchdog=dog).run()


if __name__ == "__main__":
    sys.exit(main())
