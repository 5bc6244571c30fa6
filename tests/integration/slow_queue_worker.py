"""A worker process of the queue alone: each live request says when it starts, waits for its own file, and ends.

`python -m tests.integration.slow_queue_worker REDIS_URL FOLDER SLOTS`. The order of things is the order of the
lines in FOLDER/log.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

from shared.queue import QueueWorker

QUEUE = "queue-test"


def main() -> int:
    redis_url, folder, slots = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    lock = threading.Lock()

    def note(line: str) -> None:
        with lock, (folder / "log").open("a") as log:
            log.write(line + "\n")

    def on_live(envelope: dict[str, Any]) -> None:
        note(f"start {envelope['name']}")
        while not (folder / envelope["name"]).exists():
            time.sleep(0.002)
        note(f"end {envelope['name']}")

    return QueueWorker(
        redis_url,
        name="slow",
        queues=[QUEUE],
        slots=slots,
        on_ring=lambda queue, parent: note(f"ring {queue} {parent}"),
        on_live=on_live,
        on_ready=lambda: note("ready"),
        on_drain=lambda: note("drain"),
        drain_s=30,
    ).run()


if __name__ == "__main__":
    sys.exit(main())
