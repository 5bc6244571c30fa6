"""`python -m tests.bench.speaking_worker`: the platform's inference worker with an engine's pace and no engine.

A chat is answered by as many tokens as it may have, one every PACE_S seconds to each stream, as an engine's steps are;
with a temperature of 0 there is no pace, and all come at once.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from shared.contracts.core import Noop
from shared.contracts.inference import Generate
from shared.job_context import JobContext, Outcome
from shared.live_server import LiveContext
from shared.settings import read_settings
from shared.worker import Worker, WorkerSpec, open_platform

PACE_S = 0.02
SLOTS = 32
TOKEN = "hello"


def main() -> int:
    settings = read_settings(os.environ)
    platform = open_platform(settings, "inference")

    def speak(context: LiveContext, call: Generate) -> dict[str, Any]:
        count = call.sampling.max_tokens or 1
        for _ in range(count):
            context.send("token", {"choice": 0, "text": TOKEN, "tokens": 1})
            if call.sampling.temperature:
                time.sleep(PACE_S - time.monotonic() % PACE_S)
        choices = [{"text": TOKEN * count, "finish_reason": "length"}]
        usage = {"prompt_tokens": 1, "completion_tokens": count}
        return {"choices": choices, "usage": usage, "timings": {}}

    def noop(context: JobContext, job: Noop) -> Outcome:
        return Outcome()

    spec = WorkerSpec(
        "inference", {"monitoring": 1}, live_queue=Generate.queue_for(settings.pool), live_slots=SLOTS
    )
    return Worker(platform, spec, {Noop: noop}, {Generate: speak}).run()


if __name__ == "__main__":
    sys.exit(main())
