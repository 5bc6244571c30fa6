"""Parts of jobs that want vectors: handed out to inference workers, and gathered when they have ended."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence

import numpy as np

from services.data_governance.repository import vector_stores
from services.data_governance.retrieval.segment import Floats
from shared.contracts.inference import ModelRef, rows_queue
from shared.contracts.retrieval import EMBED_TEXTS, EmbedTexts
from shared.db import Row
from shared.errors import InvalidInput
from shared.job_context import JobContext
from shared.jobs import NewJob, Status, new_id
from shared.worker import Platform


def hand_out(
    platform: Platform, ctx: JobContext, model: ModelRef, pool: str, texts: Sequence[str], *, first: int = 0
) -> list[NewJob]:
    """Jobs for the vectors of texts, EMBED_TEXTS each; their ids sort as they are handed out, from `first` on."""
    queue = _queue(platform, model, pool)
    made = []
    for number, start in enumerate(range(0, len(texts), EMBED_TEXTS), first):
        part = texts[start : start + EMBED_TEXTS]
        payload = EmbedTexts(model=model, artifact=store_texts(platform, part), count=len(part))
        job_id = f"{EmbedTexts.id_prefix}{ctx.job.id}-{number:06d}-{new_id('')[-6:]}"
        made.append(ctx.part(payload, queue, job_id=job_id))
    return made


def _queue(platform: Platform, model: ModelRef, pool: str) -> str:
    """Workers that name the encoder, where such live; else those that serve any."""
    named = rows_queue(pool, model.base_name)
    with platform.db.core() as connection:
        heard = vector_stores.is_heard(connection, named)
    return named if heard else EmbedTexts.queue_for(pool)


def gathered(platform: Platform, ctx: JobContext) -> Iterator[Floats]:
    """The vectors of each part, in the order of handing out. Raises InvalidInput with what a part failed of."""
    with ctx.transaction() as connection:
        parts = vector_stores.parts(connection, ctx.job.id, EmbedTexts.kind)
    for part in parts:
        if part["state"] != Status.SUCCEEDED.value:
            told: Row = part["error"] or {}
            raise InvalidInput(
                f"the encoder made no vectors: {told.get('message', part['state'])}",
                code=str(told.get("code", "server_error")),
            )
        with platform.artifacts.open(part["result"]["artifact"]) as source:
            yield np.load(io.BytesIO(source.read()), allow_pickle=False)


def store_texts(platform: Platform, texts: Sequence[str]) -> str:
    """An artifact of JSONL, a string a line."""
    lines = "".join(json.dumps(text, ensure_ascii=True) + "\n" for text in texts)
    return platform.artifacts.put(io.BytesIO(lines.encode()))[0]
