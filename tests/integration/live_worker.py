"""A real worker process that answers live requests as told by files in HELIU_HOME, and says which worker it is.

The last message is an order: "hold" waits for the file `go` before the first token, "break" sends one token and
waits then, "endless" sends nothing until it is cancelled and leaves a file `cancelled`. Job queue: `monitoring`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from shared.contracts.core import Noop
from shared.contracts.inference import Generate
from shared.job_context import JobContext, Outcome
from shared.live_server import LiveContext
from shared.settings import read_settings
from shared.worker import Worker, WorkerSpec, open_platform


def main() -> int:
    settings = read_settings(os.environ)
    home = Path(settings.home)

    def answer(context: LiveContext, call: Generate) -> dict[str, Any]:
        order = call.messages[-1].content
        if order == "endless":
            context.cancelled.wait(120)
            (home / "cancelled").write_text(str(context.cancelled.is_set()))
            return {"text": "", "worker": settings.worker_index}
        if order == "break":
            context.send("token", {"text": "first"})
        if order in ("hold", "break"):
            while not (home / "go").exists():
                time.sleep(0.01)
        context.send("token", {"text": "said"})
        return {"text": "said", "worker": settings.worker_index, "attempt": context.attempt}

    def noop(context: JobContext, job: Noop) -> Outcome:
        return Outcome()

    platform = open_platform(settings, "inference")
    spec = WorkerSpec(
        "inference", {"monitoring": 2}, live_queue=Generate.queue_for(), live_slots=settings.slots or 4
    )
    return Worker(platform, spec, {Noop: noop}, {Generate: answer}).run()


if __name__ == "__main__":
    sys.exit(main())
