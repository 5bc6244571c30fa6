"""Runs the rows of one shard through the engine and hands finished rows to be stored. Knows no SQL."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from services.inference.answers import StoredRow, completion, row_error, row_request_id
from services.inference.batch_input import BatchRow
from services.inference.engine_process import EngineCrashed, EngineProcess
from shared.contracts.inference import ModelRef
from shared.errors import HeliuError
from shared.frames import Frame
from shared.stop import ChildCrashed, Stop, Stopped

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


class ShardRun:
    """One attempt at a shard. `store` commits rows under the fence of the shard's job."""

    def __init__(
        self,
        engine: EngineProcess,
        batch_id: str,
        tenant: str,
        epoch: int,
        store: Callable[[list[StoredRow]], None],
    ) -> None:
        self._engine = engine
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
        open_rows: dict[str, Pending] = {}
        for item in pending:
            request_id = f"{self._batch_id}:{item.row_no}:{self._epoch}"
            open_rows[request_id] = item
            try:
                self._engine.submit(self._request(request_id, item, fetch(item.model)), heard)
            except EngineCrashed as exc:
                raise ChildCrashed(exc.message) from exc
        failure: HeliuError | None = None
        while open_rows:
            if ctx.asked.is_set():
                for request_id in open_rows:
                    self._engine.cancel(request_id)
                if ctx.reason is not Stop.LOST:
                    self._commit()
                assert ctx.reason is not None
                raise Stopped(ctx.reason)
            try:
                frame = heard.get(timeout=0.1)
            except queue.Empty:
                self._commit_if_due()
                continue
            if frame["type"] not in ("done", "error"):
                continue
            item = open_rows.pop(frame["id"])
            if frame["type"] == "done":
                self._finished.append(self._answered(item, frame))
            elif frame["retryable"]:
                failure = HeliuError(frame["message"], code=frame["code"], retryable=True)
            else:
                body = row_error(frame["code"], frame["message"], frame.get("param"))
                self._finished.append(StoredRow(item.row_no, item.row.custom_id, 400, body))
            self._commit_if_due()
        self._commit()
        if failure is not None:
            raise ChildCrashed(failure.message) if failure.code == "engine_crashed" else failure

    def _request(self, request_id: str, item: Pending, models: dict[str, Any]) -> Frame:
        request = item.row.request
        return {
            "id": request_id,
            "tenant": self._tenant,
            "priority": "batch",
            **models,
            "messages": [message.model_dump() for message in request.messages],
            "prompt": None,
            "sampling": {**request.sampling.model_dump(mode="json"), "logprobs": False},
        }

    def _answered(self, item: Pending, done: Frame) -> StoredRow:
        request_id = row_request_id(self._batch_id, item.row_no)
        model = item.row.request.model
        return StoredRow(
            row_no=item.row_no,
            custom_id=item.row.custom_id,
            status_code=200,
            body=completion(request_id, model, int(time.time()), done),
            prompt_tokens=done["usage"]["prompt_tokens"],
            completion_tokens=done["usage"]["completion_tokens"],
            model=model,
            model_artifact=item.model.adapter_artifact or item.model.base_artifact,
            seconds=sum(done["timings"].get(part) or 0.0 for part in ("prefill_s", "decode_s")),
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
