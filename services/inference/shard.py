"""Runs the rows of one shard through the engine and hands finished rows to be stored. Knows no SQL."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from services.inference import scores, vectors
from services.inference.answers import StoredRow, row_error, row_request_id
from services.inference.batch_input import BatchRow
from services.inference.choices import Choices, calls
from services.inference.engine_process import Call, EngineCrashed, EngineProcess
from services.inference.gathered import Gathered
from services.inference.scores import Labelled, Ranked
from services.inference.task_rows import RowRequest
from services.inference.vectors import Vectors
from shared.contracts.answers import answer_id, completion
from shared.contracts.classifications import classifications
from shared.contracts.embeddings import embeddings
from shared.contracts.inference import CompletionRequest, EmbeddingRequest, ModelRef
from shared.contracts.marking import Marking
from shared.contracts.rerank import reranked
from shared.contracts.scores import ClassificationRequest, RerankRequest
from shared.errors import HeliuError
from shared.frames import Frame
from shared.stop import ChildCrashed, Stop, Stopped
from shared.task.guards import guard_choices
from shared.task.marking import fitting, labelled
from shared.task.marking import metadata as metadata_of

COMMIT_ROWS = 50
COMMIT_S = 1.0


@dataclass(frozen=True)
class Pending:
    """A row that has no answer yet."""

    row_no: int
    row: BatchRow
    model: ModelRef


class Asked(Protocol):
    """What a shard needs of its job's context: whether, and why, it is asked to stop."""

    asked: threading.Event
    reason: Stop | None


@dataclass(frozen=True)
class _Open:
    """A row that the engine has."""

    item: Pending
    call: Call
    answers: Choices | Gathered


class ShardRun:
    """One attempt at a shard. `store` commits rows under the fence of the shard's job.

    `markings` say how answers are marked, by task, and under the empty name those of all others.
    """

    def __init__(
        self,
        engine: EngineProcess,
        endpoint: str,
        batch_id: str,
        tenant: str,
        epoch: int,
        store: Callable[[list[StoredRow]], None],
        markings: Mapping[str, Marking] | None = None,
    ) -> None:
        self._engine = engine
        self._endpoint = endpoint
        self._batch_id = batch_id
        self._tenant = tenant
        self._epoch = epoch
        self._store = store
        self._markings = markings or {}
        self._finished: list[StoredRow] = []
        self._since = time.monotonic()

    def answer(
        self, pending: Sequence[Pending], ctx: Asked, fetch: Callable[[ModelRef], dict[str, Any]]
    ) -> None:
        """Answer every row. Raises Stopped when asked to, ChildCrashed when the engine died; finished rows stay."""
        heard: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        rows: dict[str, _Open] = {}
        for item in pending:
            if item.row.said is not None:
                self._finished.append(self._answered(item, _saying(item.row.said, item.row.request)))
                continue
            common = {"tenant": self._tenant, "priority": "batch", **fetch(item.model)}
            name = f"{self._batch_id}:{item.row_no}:{self._epoch}"
            frames, answers = _asked(name, item, common)
            try:
                call = self._engine.submit(frames, heard)
            except EngineCrashed as exc:
                raise ChildCrashed(exc.message) from exc
            rows[name] = _Open(item, call, answers)
        failure: HeliuError | None = None
        while rows:
            if ctx.asked.is_set():
                for row in rows.values():
                    row.call.cancel()
                if ctx.reason is not Stop.LOST:
                    self._commit()
                assert ctx.reason is not None
                raise Stopped(ctx.reason)
            try:
                frame = heard.get(timeout=0.1)
            except queue.Empty:
                self._commit_if_due()
                continue
            failure = self._heard(frame, rows) or failure
            self._commit_if_due()
        self._commit()
        if failure is not None:
            raise ChildCrashed(failure.message) if failure.code == "engine_crashed" else failure

    def _heard(self, frame: Frame, rows: dict[str, _Open]) -> HeliuError | None:
        """Take what the engine says of one choice; returns a failure that is worth another attempt."""
        name = frame["id"].rpartition(".")[0]
        row = rows.get(name)
        if row is None or frame["type"] not in ("done", "error"):
            return None
        if frame["type"] == "done":
            if row.answers.take(frame):
                del rows[name]
                self._finished.append(self._answered(row.item, row.answers.result()))
            return None
        # A row has all of its choices or none.
        del rows[name]
        row.call.cancel()
        if frame["retryable"]:
            return HeliuError(frame["message"], code=frame["code"], retryable=True)
        told = _failure(row.item, frame)
        body = row_error(told.code, told.message, told.param)
        self._finished.append(StoredRow(row.item.row_no, row.item.row.custom_id, 400, body))
        return None

    def _answered(self, item: Pending, result: dict[str, Any]) -> StoredRow:
        asked, task = item.row.request, item.row.task
        model, usage, timings = asked.model, result["usage"], result["timings"]
        release = item.row.release
        metadata = (task.metadata if task else {}) | (release.metadata if release else {})
        shown = release.model if release else model
        answer: str | None = None
        request_id, tokens = row_request_id(self._batch_id, item.row_no), usage["prompt_tokens"]
        if isinstance(asked, CompletionRequest):
            answer = answer_id(self._endpoint, request_id)
            choices = result["choices"]
            metadata = metadata | ({"decoding": result["decoding"]} if result.get("decoding") else {})
            if task is not None:
                shown = f"task:{task.label}"
                choices, refused = guard_choices(task.spec.guards.output, choices)
                metadata |= {"refused_by": ", ".join(refused)} if refused else {}
            marking = fitting(self._markings.get(task.name if task else "", self._markings.get("")), asked)
            body = completion(
                self._endpoint, answer, shown, int(time.time()), labelled(marking, choices), usage
            ) | metadata_of(marking, answer, [str(choice["text"]) for choice in choices])
            if item.row.sources is not None:
                body = item.row.sources.cite(body)
            seconds = timings["prefill_s"] + timings["decode_s"]
        else:
            seconds = timings["compute_s"]
            if isinstance(asked, EmbeddingRequest):
                body = embeddings(shown, result["vectors"], tokens, asked.encoding_format)
            elif isinstance(asked, RerankRequest):
                body = reranked(
                    request_id, asked.model_copy(update={"model": shown}), result["scores"], tokens
                )
            else:
                body = classifications(request_id, shown, int(time.time()), result["results"], tokens)
        return StoredRow(
            row_no=item.row_no,
            custom_id=item.row.custom_id,
            status_code=200,
            body=body,
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
            model=model,
            model_artifact=item.model.adapter_artifact or item.model.base_artifact,
            seconds=seconds,
            metadata=metadata,
            answer_id=answer,
        )

    def _commit_if_due(self) -> None:
        due = len(self._finished) >= COMMIT_ROWS or time.monotonic() - self._since > COMMIT_S
        if self._finished and due:
            self._commit()

    def _commit(self) -> None:
        if self._finished:
            rows, self._finished = self._finished, []
            self._store(rows)
        self._since = time.monotonic()


def _saying(text: str, asked: RowRequest) -> dict[str, Any]:
    """An answer that no engine makes, as one would tell it."""
    count = asked.n if isinstance(asked, CompletionRequest) else 1
    return {
        "choices": [{"text": text, "finish_reason": "stop"}] * count,
        "usage": {"prompt_tokens": 0, "completion_tokens": 0},
        "timings": {"prefill_s": 0.0, "decode_s": 0.0},
    }


def _asked(name: str, item: Pending, common: Mapping[str, Any]) -> tuple[list[Frame], Choices | Gathered]:
    """The engine's frames of a row, and what puts the answers to them together."""
    wanted, encoder = item.row.request, item.model.encoder
    if isinstance(wanted, EmbeddingRequest):
        return vectors.calls(name, wanted, encoder, common), Vectors(wanted)
    if isinstance(wanted, ClassificationRequest):
        return scores.calls(name, wanted, encoder, common), Labelled(wanted)
    if isinstance(wanted, RerankRequest):
        return scores.calls(name, wanted, encoder, common), Ranked(wanted, encoder)
    return calls(name, wanted, common), Choices(wanted)


def _failure(item: Pending, frame: Frame) -> HeliuError:
    """The engine's error, at its place in the row."""
    wanted = item.row.request
    if isinstance(wanted, EmbeddingRequest):
        return vectors.failure(wanted, frame)
    if isinstance(wanted, ClassificationRequest | RerankRequest):
        return scores.failure(wanted, item.model.encoder, frame)
    return HeliuError(frame["message"], code=frame["code"], param=frame.get("param"))
