"""Queue entries of vector stores: a file's index, a search over many, and the chunks of a file."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from services.data_governance.repository import vector_stores
from services.data_governance.retrieval import filters, rank, segment
from services.data_governance.retrieval.cache import SegmentCache
from services.data_governance.retrieval.chunks import chunks, windows
from services.data_governance.retrieval.extract import BROKEN, UNSUPPORTED, extract
from services.data_governance.retrieval.segment import Floats, Segment
from services.data_governance.tasks.embedding import gathered, hand_out, store_texts
from shared.contracts.retrieval import (
    Comparison,
    Compound,
    Filter,
    IndexFile,
    ReadChunks,
    SearchStore,
)
from shared.db import Row
from shared.errors import HeliuError, InvalidInput, NotFound
from shared.job_context import JobContext, Outcome, Waiting
from shared.jobs import Status
from shared.live_server import LiveContext
from shared.worker import Platform

# Chunks of one answer of `read_chunks`: some thousand tokens each.
CHUNKS_AT_ONCE = 50


def segment_cache(platform: Platform) -> SegmentCache:
    """Indexes by artifact, shared by all searches of this process."""

    def read(artifact: str) -> Segment:
        with platform.artifacts.open(artifact) as source:
            return segment.unpack(io.BytesIO(source.read()))

    return SegmentCache(read)


def index_file(platform: Platform, ctx: JobContext, job: IndexFile) -> Outcome | Waiting:
    """First time: text and chunks, whose vectors are asked for. When those are there: the index.

    A file that cannot be read fails by itself; what a killed attempt has not published was never there.
    """
    with ctx.transaction() as connection:
        if not vector_stores.is_wanted(connection, job.store_id, job.file_id, ctx.job.id):
            return Outcome(result={"chunks": 0, "dropped": "the file is no longer of the store"})
    made = ctx.job.progress.get("texts")
    try:
        texts = _read(platform, made) if made else _chunked(platform, ctx, job)
        if job.encoder is None:
            return _indexed(platform, ctx, job, segment.build(texts))
        cut = [windows(text, job.context) for text in texts]
        if made is None:
            return _asked(platform, ctx, job, texts, [text for part in cut for text in part])
        window_of = [place for place, part in enumerate(cut) for _ in part]
        return _indexed(
            platform, ctx, job, segment.build(texts, _vectors(platform, ctx, len(window_of)), window_of)
        )
    except InvalidInput as exc:
        return _failed(ctx, job, exc)


def _chunked(platform: Platform, ctx: JobContext, job: IndexFile) -> list[str]:
    with platform.tracing.span("retrieval.chunk", parent=ctx.span.traceparent) as span:
        text = extract(platform.artifacts.path(job.artifact), job.filename)
        ctx.check()
        found = [chunk.text for chunk in chunks(text, job.max_tokens, job.overlap_tokens)]
        span.set(chunks=len(found), characters=len(text))
    return found


def _asked(platform: Platform, ctx: JobContext, job: IndexFile, texts: list[str], cut: list[str]) -> Waiting:
    """Hand the windows out, and come back when all have their vectors."""
    assert job.encoder is not None
    children = hand_out(platform, ctx, job.encoder, job.pool, cut)
    return Waiting(children, {"texts": store_texts(platform, texts), "windows": len(cut)})


def _vectors(platform: Platform, ctx: JobContext, count: int) -> Floats:
    """(count, width). Raises what the parts failed of."""
    vectors: Floats = np.concatenate(list(gathered(platform, ctx)))
    if len(vectors) != count:
        raise HeliuError(f"{count} texts have {len(vectors)} vectors", retryable=True)
    return vectors


def _indexed(platform: Platform, ctx: JobContext, job: IndexFile, made: Segment) -> Outcome:
    with platform.tracing.span("retrieval.index", parent=ctx.span.traceparent) as span:
        artifact, size = platform.artifacts.put(io.BytesIO(segment.pack(made)))
        span.set(chunks=len(made.texts), bytes=size)
    return Outcome(
        result={"chunks": len(made.texts), "artifact": artifact, "bytes": size},
        write=partial(
            vector_stores.complete,
            store=job.store_id,
            file=job.file_id,
            job=ctx.job.id,
            index=artifact,
            chunks=len(made.texts),
            bytes_=size,
        ),
    )


def _failed(ctx: JobContext, job: IndexFile, exc: InvalidInput) -> Outcome:
    code = exc.code if exc.code in (UNSUPPORTED, BROKEN) else "server_error"
    error = {"code": code, "message": exc.message}
    return Outcome(
        status=Status.FAILED,
        error=error,
        write=partial(vector_stores.fail, store=job.store_id, file=job.file_id, job=ctx.job.id, error=error),
    )


def _read(platform: Platform, artifact: str) -> list[str]:
    path: Path = platform.artifacts.path(artifact)
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def search_store(
    platform: Platform, cache: SegmentCache, ctx: LiveContext, call: SearchStore
) -> dict[str, Any]:
    """The best chunks for a client that waits."""
    with platform.tracing.span("retrieval.search", parent=ctx.span.traceparent) as span:
        rows = _searched(platform, ctx, call.store_id)
        wanted = _filter(call.filters)
        named = {
            row["file_id"]: row for row in rows if wanted is None or filters.passes(wanted, row["attributes"])
        }
        parts = [rank.Part(file, partial(cache.get, row["index_artifact"])) for file, row in named.items()]
        queries = [
            rank.Query(text, rank.vector_of(vector) if vector else None)
            for text, vector in zip(call.queries, call.vectors or [""] * len(call.queries), strict=True)
        ]
        hits = rank.search(parts, queries, limit=call.limit, min_score=call.min_score)
        span.set(files=len(parts), hits=len(hits))
    results = [
        {
            "file_id": hit.file_id,
            "filename": named[hit.file_id]["filename"],
            "attributes": named[hit.file_id]["attributes"],
            "score": hit.score,
            "chunk": hit.chunk,
            "text": hit.text,
        }
        for hit in hits
    ]
    return {"results": results, "ranked_by": list(rank.ranked_by(parts[:1], queries))}


def read_chunks(
    platform: Platform, cache: SegmentCache, ctx: LiveContext, call: ReadChunks
) -> dict[str, Any]:
    """The texts of an indexed file, some at a time."""
    rows = _searched(platform, ctx, call.store_id, call.file_id)
    if not rows:
        raise NotFound(f"the file {call.file_id!r} is not indexed in {call.store_id!r}", param="file_id")
    texts = cache.get(rows[0]["index_artifact"]).texts
    end = call.offset + CHUNKS_AT_ONCE
    return {"texts": list(texts[call.offset : end]), "more": end < len(texts)}


def _searched(platform: Platform, ctx: LiveContext, store: str, file: str | None = None) -> list[Row]:
    with platform.db.transaction(UUID(ctx.tenant)) as connection:
        return vector_stores.searched(connection, store, file)


def _filter(given: dict[str, Any] | None) -> Filter | None:
    if given is None:
        return None
    kind = Compound if given.get("type") in ("and", "or") else Comparison
    return kind.model_validate(given)
