"""A real worker process without a model: it answers chats by orders in the last message, and runs no-op jobs.

"fail CODE" is an error before the first token, "break N" one after N tokens, "endless" goes on until it is
cancelled (and then leaves a file `cancelled` in HELIU_HOME), "pause N" waits after N words until there is a file `go`
there; anything else is said back word by word.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from shared.contracts.core import Noop
from shared.contracts.inference import Generate, live_queue
from shared.errors import HeliuError
from shared.job_context import JobContext, Outcome
from shared.live_server import LiveContext
from shared.settings import read_settings
from shared.worker import Worker, WorkerSpec, open_platform


def main() -> int:
    settings = read_settings(os.environ)

    def answer(context: LiveContext, call: Generate) -> dict[str, Any]:
        words = call.messages[-1].content.split()
        if words[0] == "fail":
            raise HeliuError("refused by the worker", code=words[1], param="messages")
        if words[0] == "endless":
            while not context.cancelled.wait(0.02):
                context.send("token", {"text": "on ", "tokens": 1})
            (settings.home / "cancelled").touch()
            return _done("on", "cancelled", 1)
        limit = int(words[1]) if words[0] == "break" else None
        pause = int(words[1]) if words[0] == "pause" else None
        said = ""
        for index, word in enumerate(words):
            if index == limit:
                raise HeliuError("the engine fell over", code="engine_failed")
            while index == pause and not (settings.home / "go").exists():
                if context.cancelled.wait(0.02):
                    (settings.home / "cancelled").touch()
                    return _done(said, "cancelled", index)
            text = word if index == 0 else f" {word}"
            said += text
            context.send("token", {"text": text, "tokens": 1})
        return _done(said, "stop", len(words))

    def noop(context: JobContext, job: Noop) -> Outcome:
        for step in range(job.steps):
            context.check()
            context.event("step", f"step {step}")
        return Outcome(result={"steps": job.steps})

    served = settings.served_models
    spec = WorkerSpec(
        "inference",
        {"monitoring": 2},
        live_queue=None if served else "inference.default.live",
        live_slots=4,
        live_queues=tuple(live_queue("default", base) for base in served),
    )
    platform = open_platform(settings, "inference")
    return Worker(platform, spec, {Noop: noop}, {Generate: answer}).run()


def _done(text: str, reason: str, tokens: int) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": tokens}
    choices = [{"text": text, "finish_reason": reason}]
    return {"choices": choices, "usage": usage, "timings": {}}


if __name__ == "__main__":
    sys.exit(main())
