"""Runs the rows of one shard through the engine and hands finished rows to be stored. Knows no SQL."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from services.inference import vectors
from services.inference.answers import StoredRow, row_error, row_request_id
from services.inference.batch_input import BatchRow
from services.inference.choices import Choices, calls
from services.inference.engine_process import Call, EngineCrashed, EngineProcess
from services.inference.vectors import Vectors
from shared.contracts.answers import answer_id, completion
from shared.contracts.embeddings import embeddings
from shared.contracts.inference import EmbeddingRequest, ModelRef
from shared.errors import HeliuError
from shared.frames import Frame
from shared.stop import ChildCrashed, Stop, Stopped
from shared.task.guards import guard_choices

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
    answers: Choices | Vectors


class ShardRun:
    """One attempt at a shard. `store` commits rows under the fence of the shard's job."""

    def __init__(
        self,
        engine: EngineProcess,
        endpoint: str,
        batch_id: str,
        tenant: str,
        epoch: int,
        store: Callable[[list[StoredRow]], None],
    ) -> None:
        self._engine = engine
        self._endpoint = endpoint
        self._batch_id = batch_id
        self._tenant = tenant
        self._epoch = epoch
        self._store = store
        self._finished: list[StoredRow] = []
        self._since = time.monotonic()

    def answer(
        self, pending: Sequence[Pending], ctx: Asked, fetch: Callable[[ModelRef], dict[str, Any]]
    ) -> None:
        """Answer every row. Raises Stopped when asked to, ChildCrashed when the engine died; finished rows stay."""
        heard: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        rows: dict[str, _Open] = {}
        for item in pending:
            common = {"tenant": self._tenant, "priority": "batch", **fetch(item.model)}
            name = f"{self._batch_id}:{item.row_no}:{self._epoch}"
            wanted = item.row.request
            answers: Choices | Vectors
            if isinstance(wanted, EmbeddingRequest):
                frames, answers = vectors.calls(name, wanted, item.model.encoder, common), Vectors(wanted)
            else:
                frames, answers = calls(name, wanted, common), Choices(wanted)
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
        wanted = row.item.row.request
        if isinstance(wanted, EmbeddingRequest):
            told = vectors.failure(wanted, frame)
            body = row_error(told.code, told.message, told.param)
        else:
            body = row_error(frame["code"], frame["message"], frame.get("param"))
        self._finished.append(StoredRow(row.item.row_no, row.item.row.custom_id, 400, body))
        return None

    def _answered(self, item: Pending, result: dict[str, Any]) -> StoredRow:
        asked, task = item.row.request, item.row.task
        model, usage, timings = asked.model, result["usage"], result["timings"]
        metadata = task.metadata if task else {}
        if isinstance(asked, EmbeddingRequest):
            body = embeddings(model, result["vectors"], usage["prompt_tokens"], asked.encoding_format)
            seconds = timings["compute_s"]
        else:
            answer = answer_id(self._endpoint, row_request_id(self._batch_id, item.row_no))
            shown, choices = model, result["choices"]
            if task is not None:
                shown = f"task:{task.label}"
                choices, refused = guard_choices(task.spec.guards.output, choices)
                metadata |= {"refused_by": ", ".join(refused)} if refused else {}
            body = completion(self._endpoint, answer, shown, int(time.time()), choices, usage)
            seconds = timings["prefill_s"] + timings["decode_s"]
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
