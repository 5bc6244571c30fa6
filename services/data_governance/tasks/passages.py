"""Queue entry of what the rows of a batch answer from: their questions embedded, store by store, then searched."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from services.data_governance.repository import vector_stores
from services.data_governance.retrieval import rank
from services.data_governance.retrieval.cache import SegmentCache
from services.data_governance.retrieval.segment import Floats
from services.data_governance.tasks.embedding import gathered, hand_out
from shared.contracts.inference import ModelRef
from shared.contracts.retrieval import FindPassages, Found, Passage, Question
from shared.db import Row
from shared.job_context import JobContext, Outcome, Waiting
from shared.jobs import NewJob
from shared.worker import Platform

NO_STORE = "the vector store {} that the task answers from is there no more"


def find_passages(
    platform: Platform, cache: SegmentCache, ctx: JobContext, job: FindPassages
) -> Outcome | Waiting:
    """First time: vectors are asked for where stores have an encoder. When those are there: the search."""
    with platform.artifacts.open(job.artifact) as source:
        questions = [Question.model_validate_json(line) for line in source]
    encoders = _encoders(ctx, sorted({question.store for question in questions}))
    asked: dict[str, int] | None = ctx.job.progress.get("vectors")
    if asked is None:
        children, counts = _asked(platform, ctx, job, questions, encoders)
        if children:
            return Waiting(children, {"vectors": counts})
        asked = counts
    vectors = _vectors(platform, ctx, asked)
    lines = io.BytesIO()
    with platform.tracing.span("retrieval.passages", parent=ctx.span.traceparent) as span:
        for found in _search(ctx, cache, questions, encoders, vectors):
            lines.write(found.model_dump_json().encode() + b"\n")
        span.set(questions=len(questions))
    artifact, _ = platform.artifacts.put(io.BytesIO(lines.getvalue()))
    return Outcome(result={"artifact": artifact, "questions": len(questions)})


def _encoders(ctx: JobContext, stores: Sequence[str]) -> dict[str, Row | None]:
    """By store that can be used; None where words alone count."""
    with ctx.transaction() as connection:
        told = {store: vector_stores.encoder(connection, store) for store in stores}
    return {store: encoder for store, (there, encoder) in told.items() if there}


def _asked(
    platform: Platform,
    ctx: JobContext,
    job: FindPassages,
    questions: Sequence[Question],
    encoders: Mapping[str, Row | None],
) -> tuple[list[NewJob], dict[str, int]]:
    """(jobs, how many vectors of each store they make, in the order of the stores)."""
    children: list[NewJob] = []
    counts = {}
    for store, encoder in sorted(encoders.items()):
        if encoder is not None:
            texts = [question.query for question in questions if question.store == store]
            model = ModelRef.model_validate(encoder["model"])
            children += hand_out(platform, ctx, model, job.pool, texts, first=len(children))
            counts[store] = len(texts)
    return children, counts


def _vectors(platform: Platform, ctx: JobContext, counts: Mapping[str, int]) -> dict[str, Iterator[Floats]]:
    """By store, the vectors of its questions in their order, of length 1."""
    if not counts:
        return {}
    arrays = gathered(platform, ctx)
    found = {}
    for store, count in sorted(counts.items()):
        taken: list[Floats] = []
        while sum(map(len, taken)) < count:
            taken.append(next(arrays))
        rows = np.concatenate(taken)
        found[store] = iter(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
    return found


def _search(
    ctx: JobContext,
    cache: SegmentCache,
    questions: Sequence[Question],
    encoders: Mapping[str, Row | None],
    vectors: Mapping[str, Iterator[Floats]],
) -> Iterator[Found]:
    files: dict[str, list[Row]] = {}
    for question in questions:
        ctx.check()
        store = question.store
        if store not in encoders:
            yield Found(id=question.id, store=store, error=NO_STORE.format(store))
            continue
        if store not in files:
            with ctx.transaction() as connection:
                files[store] = vector_stores.searched(connection, store)
            ctx.touch()
        named = {row["file_id"]: row["filename"] for row in files[store]}
        parts = [rank.Part(row["file_id"], partial(cache.get, row["index_artifact"])) for row in files[store]]
        query = rank.Query(question.query, next(vectors[store]) if store in vectors else None)
        hits = rank.search(parts, [query], limit=question.limit, min_score=question.min_score)
        yield Found(
            id=question.id,
            store=store,
            passages=tuple(
                Passage(file_id=hit.file_id, filename=named[hit.file_id], score=hit.score, text=hit.text)
                for hit in hits
            ),
        )
