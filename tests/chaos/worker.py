"""`python -m tests.chaos.worker`: the inference worker with the echoing engine in the place of the real one.

Queue, shards, fences and commits are the real ones; only the child that makes the text is another.
"""

from __future__ import annotations

import os
import sys
from functools import partial

from services.inference.engine_process import EngineProcess
from services.inference.main import SHARDS
from services.inference.tasks import batches, chats, live
from shared.contracts.background import ChatJob
from shared.contracts.batches import Batch, BatchShard
from shared.contracts.inference import Generate
from shared.kept import KeptWriters
from shared.settings import read_settings
from shared.worker import Worker, WorkerSpec, open_platform


def main() -> int:
    settings = read_settings(os.environ)
    platform = open_platform(settings, "inference", max_connections=12)
    engine = EngineProcess({}, module="tests.chaos.echo_engine")
    kept = KeptWriters(settings.redis_url)
    spec = WorkerSpec(
        "inference",
        {job.queue_for(settings.pool): SHARDS for job in (Batch, BatchShard, ChatJob)},
        live_queue=Generate.queue_for(settings.pool),
        live_slots=4,
    )
    return Worker(
        platform,
        spec,
        {
            Batch: partial(batches.batch, platform),
            BatchShard: partial(batches.shard, platform, engine),
            ChatJob: partial(chats.chat, platform, engine, kept),
        },
        {Generate: partial(live.generate, platform, engine)},
        on_stop=[engine.close, kept.close],
    ).run()


if __name__ == "__main__":
    sys.exit(main())
