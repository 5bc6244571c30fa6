"""`python -m tests.bench.noop_worker`: the platform's worker with a handler that only says when it was reached.

The job's id is the Redis list that the time goes to, in nanoseconds of the machine's monotonic clock.
"""

from __future__ import annotations

import os
import sys
import time

from shared import streams
from shared.contracts.core import Noop
from shared.job_context import JobContext, Outcome
from shared.settings import read_settings
from shared.worker import Worker, WorkerSpec, open_platform

SLOTS = 4


def main() -> int:
    settings = read_settings(os.environ)
    platform = open_platform(settings, "monitoring", max_connections=SLOTS + 6)
    client = streams.connect(settings.redis_url)

    def noop(context: JobContext, job: Noop) -> Outcome:
        client.rpush(context.job.id, time.monotonic_ns())
        return Outcome()

    return Worker(platform, WorkerSpec("monitoring", {Noop.queue_for(): SLOTS}), {Noop: noop}).run()


if __name__ == "__main__":
    sys.exit(main())
