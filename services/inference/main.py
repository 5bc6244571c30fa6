"""`python -m services.inference.main`: a worker of the pool's live and batch queues. Never imports torch."""

from __future__ import annotations

import os
import sys
import threading
from functools import partial

from services.inference.engines import Engines, has_packages
from services.inference.tasks import batches, chats, embedding_jobs, live, models, placed, scored
from shared.contracts.background import ChatJob, chats_queue
from shared.contracts.base import JobContract
from shared.contracts.batches import Batch, BatchShard
from shared.contracts.inference import Detokenize, Embed, Generate, Tokenize, live_queue, rows_queue
from shared.contracts.models import ImportModel
from shared.contracts.retrieval import EmbedTexts
from shared.contracts.scores import Classify, Rerank
from shared.errors import HeliuError
from shared.job_context import Handler
from shared.kept import KeptWriters
from shared.settings import read_settings
from shared.worker import Worker, WorkerSpec, open_platform

# Two: while one commits its last rows, the other keeps the engine full.
SHARDS = 2


def main() -> int:
    try:
        settings = read_settings(os.environ)
        platform = open_platform(settings, "inference", max_connections=12)
    except HeliuError as exc:
        sys.stderr.write(f"inference: {exc.message}\n")
        return 78
    engine = Engines(
        {
            "max_slots": settings.engine_slots,
            "kv_tokens": settings.engine_kv_tokens,
            "kv_share": settings.engine_kv_share,
            "device": settings.device,
            "dtype": settings.dtype,
            "max_models": settings.engine_max_models,
            "max_model_bytes": settings.engine_max_model_bytes,
            "max_encoders": settings.engine_max_encoders,
            **({"threads": settings.threads} if settings.threads else {}),
        },
        {
            "hosts": settings.allowed_upstreams,
            "slots": settings.upstream_slots,
            "silence_s": settings.upstream_silence_seconds,
        },
    )
    kept = KeptWriters(settings.redis_url)
    jobs: dict[type[JobContract], Handler] = {
        Batch: partial(batches.batch, platform),
        BatchShard: partial(batches.shard, platform, engine),
        ImportModel: partial(models.import_model, platform),
        ChatJob: partial(chats.chat, platform, engine, kept),
        EmbedTexts: partial(embedding_jobs.embed_texts, platform, engine),
    }
    served = settings.served_models
    pool = settings.pool
    own = placed.needs_engine(platform)
    rows = [rows_queue(pool, base) for base in served] or [BatchShard.queue_for(pool)]
    chat_queues = [chats_queue(pool, base) for base in served] or [ChatJob.queue_for(pool)]
    spec = WorkerSpec(
        "inference",
        {
            Batch.queue_for(pool): SHARDS,
            # What comes in is checked with the packages that an engine needs.
            **({ImportModel.queue_for(pool): 1} if has_packages() else {}),
            **dict.fromkeys(rows, SHARDS),
            # Each is a sequence or a few of the engine's, which has others to answer too.
            **dict.fromkeys(chat_queues, max(1, settings.engine_slots // 2)),
        },
        live_queue=None if served else Generate.queue_for(pool),
        live_queues=tuple(live_queue(pool, base) for base in served),
        live_slots=settings.slots or (settings.engine_slots if own else settings.upstream_slots),
    )
    worker = Worker(
        platform,
        spec,
        jobs,
        {
            Generate: partial(live.generate, platform, engine),
            Embed: partial(live.embed, platform, engine),
            Classify: partial(scored.classify, platform, engine),
            Rerank: partial(scored.rerank, platform, engine),
            Tokenize: partial(live.tokenize, platform, engine),
            Detokenize: partial(live.detokenize, platform, engine),
        },
        on_stop=[engine.close, kept.close],
        info=partial(placed.holdings, platform, engine),
    )
    # Loading torch takes seconds: begin now, so that the first request does not wait for it.
    threading.Thread(
        target=engine.start if own else engine.start_upstream, name="engine-start", daemon=True
    ).start()
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
