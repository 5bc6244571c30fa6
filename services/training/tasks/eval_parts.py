"""What a run of an eval hands out to inference workers, batches and vectors, and what comes back of it."""

from __future__ import annotations

import io
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from services.training.repository import evals as repository
from shared.contracts.answers import CHAT
from shared.contracts.batches import Batch
from shared.contracts.eval_items import MAX_ITEMS
from shared.contracts.evals import RunEval
from shared.contracts.inference import Endpoint, rows_queue
from shared.contracts.retrieval import EMBED_TEXTS, EmbedTexts
from shared.db import Row
from shared.errors import InvalidInput
from shared.job_context import JobContext
from shared.jobs import NewJob, Status, new_id
from shared.worker import Platform

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Asked:
    """Jobs that were handed out, and how many requests they hold."""

    jobs: list[NewJob]
    requests: int


def batches(
    platform: Platform,
    ctx: JobContext,
    job: RunEval,
    endpoint: Endpoint,
    models: Iterable[str],
    requests: Iterable[tuple[str, dict[str, Any]]],
) -> Asked:
    """Batches of (custom_id, body); a batch takes as many rows as an eval has items."""
    named = set(models)
    # A task names the model that it asks by itself.
    of_tasks = not named <= job.models.keys()
    refs = job.models if of_tasks else {name: job.models[name] for name in sorted(named)}
    made, total, rows = [], 0, 0
    lines = _lines_file(platform)
    try:
        for custom_id, body in requests:
            line = {"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body}
            lines.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            rows, total = rows + 1, total + 1
            if total % 500 == 0:
                ctx.check()
                ctx.touch()
            if rows == MAX_ITEMS:
                made.append(_batch(platform, ctx, job, endpoint, refs, lines))
                lines, rows = _lines_file(platform), 0
        if rows:
            made.append(_batch(platform, ctx, job, endpoint, refs, lines))
    finally:
        lines.close()
    return Asked(made, total)


def _lines_file(platform: Platform) -> Any:
    work = platform.settings.home / "work"
    work.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=work)


def _batch(
    platform: Platform,
    ctx: JobContext,
    job: RunEval,
    endpoint: Endpoint,
    models: dict[str, Any],
    lines: BinaryIO,
) -> NewJob:
    lines.seek(0)
    artifact, _ = platform.artifacts.put(lines)
    lines.close()
    contract = Batch(
        input_file_id=ctx.job.id,
        artifact=artifact,
        endpoint=endpoint,
        models=models,
        tasks=job.tasks if endpoint == CHAT else {},
        registered=job.registered if endpoint == CHAT else {},
        pool=job.pool,
    )
    return ctx.part(contract, Batch.queue_for(job.pool))


def embeddings(platform: Platform, ctx: JobContext, job: RunEval, texts: Iterable[str]) -> Asked:
    """Jobs for the vectors of texts, EMBED_TEXTS each; their ids sort as the texts come."""
    assert job.encoder is not None
    named = rows_queue(job.pool, job.encoder.base_name)
    with platform.db.core() as connection:
        queue = named if repository.is_heard(connection, named) else EmbedTexts.queue_for(job.pool)
    made: list[NewJob] = []
    total, part = 0, list[str]()
    for text in texts:
        part.append(text)
        total += 1
        if len(part) == EMBED_TEXTS:
            made.append(_embed(platform, ctx, job, queue, part, len(made)))
            part = []
    if part:
        made.append(_embed(platform, ctx, job, queue, part, len(made)))
    return Asked(made, total)


def _embed(
    platform: Platform, ctx: JobContext, job: RunEval, queue: str, texts: Sequence[str], number: int
) -> NewJob:
    assert job.encoder is not None
    lines = "".join(json.dumps(text, ensure_ascii=True) + "\n" for text in texts)
    artifact, _ = platform.artifacts.put(io.BytesIO(lines.encode()))
    payload = EmbedTexts(model=job.encoder, artifact=artifact, count=len(texts))
    job_id = f"{EmbedTexts.id_prefix}{ctx.job.id}-{number:06d}-{new_id('')[-6:]}"
    return ctx.part(payload, queue, job_id=job_id)


def outputs(ctx: JobContext, ids: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """(artifacts, file ids) of what batches answered, errors among it. Raises InvalidInput where one ended badly."""
    with ctx.transaction() as connection:
        ended = repository.parts(connection, ctx.job.id, ids)
        for row in ended:
            _succeeded(row, what)
        files = [
            row["result"][name]
            for row in ended
            for name in ("output_file_id", "error_file_id")
            if row["result"].get(name)
        ]
        return repository.artifacts(connection, files), files


def _succeeded(row: Row, what: str) -> None:
    if row["state"] == Status.SUCCEEDED.value:
        return
    told = row["error"] or {}
    raise InvalidInput(
        f"{what} ({row['id']}) ended as {row['state']}: {told.get('message', 'it tells no reason')}",
        code=str(told.get("code", "batch_failed")),
        param="data_source",
    )


def vectors(platform: Platform, ctx: JobContext, ids: Sequence[str]) -> Iterator[Vector | InvalidInput]:
    """A vector of length 1 for each text in order, or why a part of them has none."""
    with ctx.transaction() as connection:
        ended = repository.parts(connection, ctx.job.id, ids)
    for row in ended:
        if row["state"] != Status.SUCCEEDED.value:
            told = row["error"] or {}
            with ctx.transaction() as connection:
                count = repository.asked_texts(connection, row["id"])
            problem = InvalidInput(
                f"the encoder made no vectors: {told.get('message', row['state'])}",
                code=str(told.get("code", "server_error")),
            )
            for _ in range(count):
                yield problem
            continue
        with platform.artifacts.open(row["result"]["artifact"]) as source:
            found = np.load(io.BytesIO(source.read()), allow_pickle=False)
        lengths = np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        yield from found / lengths


@dataclass
class Rows:
    """Lines of batches' outputs by custom_id: where each lies is in memory, and what it says is not."""

    _files: list[BinaryIO] = field(default_factory=list)
    _places: dict[str, tuple[int, int]] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def of(cls, platform: Platform, artifacts: Sequence[str]) -> Rows:
        rows = cls()
        for number, artifact in enumerate(artifacts):
            source = rows._stack.enter_context(platform.artifacts.open(artifact))
            rows._files.append(source)
            place = 0
            while line := source.readline():
                rows._places[json.loads(line)["custom_id"]] = (number, place)
                place += len(line)
        return rows

    def get(self, custom_id: str) -> dict[str, Any] | None:
        found = self._places.get(custom_id)
        if found is None:
            return None
        source = self._files[found[0]]
        source.seek(found[1])
        told: dict[str, Any] = json.loads(source.readline())
        return told

    def close(self) -> None:
        self._stack.close()

    def usage(self) -> dict[str, dict[str, int]]:
        """Tokens and calls by the model that was asked, of rows with an answer."""
        used: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for custom_id in self._places:
            row = self.get(custom_id) or {}
            if row.get("error"):
                continue
            body = row["response"]["body"]
            told = body.get("usage") or {}
            one = used[str(body.get("model"))]
            one["invocation_count"] += 1
            one["prompt_tokens"] += told.get("prompt_tokens", 0)
            one["completion_tokens"] += told.get("completion_tokens", 0)
            one["total_tokens"] += told.get("total_tokens", 0)
            one["cached_tokens"] += (told.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        return {model: dict(counts) for model, counts in used.items()}
