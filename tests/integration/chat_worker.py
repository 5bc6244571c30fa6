"""A real inference worker of chats in the background, with an engine that follows orders (`pausing_engine`)."""

from __future__ import annotations

import os
import sys
from functools import partial

from services.inference.engine_process import EngineProcess
from services.inference.tasks import chats
from shared.contracts.background import ChatJob
from shared.kept import KeptWriters
from shared.settings import read_settings
from shared.worker import Worker, WorkerSpec, open_platform


def main() -> int:
    settings = read_settings(os.environ)
    platform = open_platform(settings, "inference", max_connections=12)
    engine = EngineProcess({"home": str(settings.home)}, module="tests.integration.pausing_engine")
    kept = KeptWriters(settings.redis_url)
    spec = WorkerSpec("inference", {ChatJob.queue_for(settings.pool): settings.slots or 8})
    jobs = {ChatJob: partial(chats.chat, platform, engine, kept)}
    return Worker(platform, spec, jobs, on_stop=[engine.close, kept.close]).run()


if __name__ == "__main__":
    sys.exit(main())
