"""Reads a batch's input: every line checked against the endpoint before any is run, then cut into shards.

Streams; memory holds the ids that were seen and one line. Knows no queue and no SQL.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from services.inference.task_rows import BatchTasks, RowRequest
from shared.contracts import answers
from shared.contracts.chat import parse_chat
from shared.contracts.classifications import CLASSIFICATIONS, parse_classification
from shared.contracts.completions import parse_completion
from shared.contracts.decoding import check_text
from shared.contracts.embeddings import EMBEDDINGS, parse_embedding
from shared.contracts.inference import ModelRef
from shared.contracts.json_size import MAX_TOKEN_VALUES, MAX_VALUES, too_many_values
from shared.contracts.model_registry import ReleaseUsed
from shared.contracts.rerank import RERANK, check_cut, parse_rerank
from shared.contracts.scores import RerankRequest
from shared.contracts.serving import check_serves
from shared.errors import HeliuError, InvalidInput
from shared.task.bind import TaskVersion
from shared.task.citations import Sources
from shared.task.guards import Refused

MAX_LINE_BYTES = 1024 * 1024
MAX_ROWS = 50_000
MAX_ERRORS = 100
KEYS = frozenset({"custom_id", "method", "url", "body"})
PARSERS: Mapping[str, Callable[[Mapping[str, Any]], RowRequest]] = {
    answers.CHAT: parse_chat,
    answers.TEXT: parse_completion,
    EMBEDDINGS: parse_embedding,
    CLASSIFICATIONS: parse_classification,
    RERANK: parse_rerank,
}


@dataclass(frozen=True)
class Line:
    """One line of the input: its number from 1, and the bytes that it lies at."""

    number: int
    start: int
    end: int
    content: bytes


@dataclass(frozen=True)
class BatchRow:
    """One checked request of a batch; one that is `refused` by its task's input guard is not to be run."""

    custom_id: str
    request: RowRequest
    task: TaskVersion | None = None
    refused: Refused | None = None
    sources: Sources | None = None
    release: ReleaseUsed | None = None

    @property
    def said(self) -> str | None:
        """The answer of a task that found nothing and says so by itself; no model is asked."""
        wanted = self.task.spec.retrieval if self.task else None
        return wanted.unknown if wanted and self.sources is not None and not self.sources.passages else None


@dataclass(frozen=True)
class LineError:
    """What is wrong with one line, in the shape of OpenAI's batch errors."""

    line: int | None
    code: str
    message: str
    param: str | None


@dataclass(frozen=True)
class ShardRange:
    """`count` rows from row `first` (from 0), at bytes `start` to `end`."""

    first: int
    count: int
    start: int
    end: int


@dataclass(frozen=True)
class Plan:
    """A whole input: its rows, its shards, the models and tasks that it asks for, and what is wrong with it."""

    rows: int
    shards: tuple[ShardRange, ...]
    models: tuple[str, ...]
    errors: tuple[LineError, ...]
    tasks: tuple[str, ...] = ()
    registered: tuple[str, ...] = ()


def lines(source: BinaryIO, start: int = 0, end: int | None = None) -> Iterator[Line]:
    """Lines between two byte offsets without their ends; blank lines are passed over.

    Raises InvalidInput for a line over MAX_LINE_BYTES, which is never held whole.
    """
    source.seek(start)
    position, number = start, 0
    while end is None or position < end:
        content = source.readline(MAX_LINE_BYTES + 1)
        if not content:
            return
        number += 1
        if len(content) > MAX_LINE_BYTES:
            raise InvalidInput(
                f"line {number} is longer than {MAX_LINE_BYTES} bytes",
                code="line_too_long",
                param=str(number),
            )
        line = Line(number, position, position + len(content), content.rstrip(b"\r\n"))
        position = line.end
        if line.content.strip():
            yield line


def parse_row(content: bytes, endpoint: str, tasks: BatchTasks | None = None) -> BatchRow:
    """One line as a request; raises InvalidInput naming the place."""
    most = MAX_TOKEN_VALUES if endpoint == EMBEDDINGS else MAX_VALUES
    if too_many_values(content, most):
        raise InvalidInput(f"the line holds more than {most} values", code="invalid_json_line")
    try:
        row = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"not UTF-8: byte {exc.start} of the line", code="invalid_json_line") from exc
    except RecursionError as exc:
        raise InvalidInput("nested too deeply", code="invalid_json_line") from exc
    except ValueError as exc:
        raise InvalidInput(f"not JSON: {exc}", code="invalid_json_line") from exc
    if not isinstance(row, dict):
        raise InvalidInput(
            f"a line must be a JSON object, got {type(row).__name__}", code="invalid_json_line"
        )
    for key in sorted(KEYS - row.keys()):
        raise InvalidInput(f"missing {key!r}", code="missing_required_parameter", param=key)
    for key in sorted(row.keys() - KEYS):
        raise InvalidInput(f"unknown key {key!r}; a line has {', '.join(sorted(KEYS))}", param=key)
    custom_id = row["custom_id"]
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= 512:
        raise InvalidInput("custom_id must be a string of 1 to 512 characters", param="custom_id")
    check_text(custom_id, "custom_id")
    if row["method"] != "POST":
        raise InvalidInput(
            f"method must be 'POST', got {row['method']!r}", code="invalid_method", param="method"
        )
    if row["url"] != endpoint:
        raise InvalidInput(
            f"url must be the batch's endpoint {endpoint!r}, got {row['url']!r}",
            code="invalid_url",
            param="url",
        )
    if not isinstance(row["body"], dict):
        raise InvalidInput("body must be a JSON object", param="body")
    try:
        bound = tasks.bound(row["body"], custom_id) if tasks and endpoint == answers.CHAT else None
        request: RowRequest
        request, task, refused, sources = bound or (PARSERS[endpoint](row["body"]), None, None, None)
        request, release = tasks.release(request, custom_id) if tasks else (request, None)
    except HeliuError as exc:
        raise InvalidInput(exc.message, code=exc.code, param=f"body.{exc.param}") from exc
    if request.stream:
        raise InvalidInput("stream is not allowed in a batch", param="body.stream")
    return BatchRow(custom_id, request, task, refused, sources, release)


def plan(
    source: BinaryIO,
    endpoint: str,
    known_models: Mapping[str, ModelRef],
    shard_rows: int,
    tasks: BatchTasks | None = None,
) -> Plan:
    """Check every line and cut the input into shards. Wrong lines are listed (the first MAX_ERRORS), never raised."""
    errors: list[LineError] = []
    seen: set[bytes] = set()
    models: set[str] = set()
    shards: list[ShardRange] = []
    rows = 0
    first: Line | None = None
    last: Line | None = None
    count = 0
    try:
        for line in lines(source):
            if rows >= MAX_ROWS:
                errors.append(
                    LineError(line.number, "too_many_rows", f"a batch has at most {MAX_ROWS} lines", None)
                )
                break
            rows += 1
            try:
                row = parse_row(line.content, endpoint, tasks)
                _check_row(row, seen, known_models)
                name = row.request.model
                model = known_models[name]
                check_serves(name, model.kind, endpoint, "body.model", upstream=model.upstream)
                if isinstance(row.request, RerankRequest):
                    check_cut(row.request, model.kind, "body.")
                models.add(row.request.model)
            except InvalidInput as exc:
                if len(errors) < MAX_ERRORS:
                    errors.append(
                        LineError(line.number, exc.code, f"line {line.number}: {exc.message}", exc.param)
                    )
            first, last, count = first or line, line, count + 1
            if count == shard_rows:
                shards.append(ShardRange(rows - count, count, first.start, line.end))
                first, count = None, 0
    except InvalidInput as exc:
        errors.append(LineError(int(exc.param or 0), exc.code, exc.message, None))
    if first is not None and last is not None:
        shards.append(ShardRange(rows - count, count, first.start, last.end))
    if rows == 0 and not errors:
        errors.append(LineError(None, "empty_file", "the input file has no lines", None))
    used = tuple(sorted(tasks.used)) if tasks else ()
    registered = tuple(sorted(tasks.used_registered)) if tasks else ()
    return Plan(rows, tuple(shards), tuple(sorted(models)), tuple(errors), used, registered)


def _check_row(row: BatchRow, seen: set[bytes], known_models: Container[str]) -> None:
    mark = hashlib.blake2b(row.custom_id.encode(), digest_size=16).digest()
    if mark in seen:
        raise InvalidInput(
            f"custom_id {row.custom_id!r} stands on an earlier line too; each must be its own",
            code="duplicate_custom_id",
            param="custom_id",
        )
    seen.add(mark)
    if row.request.model not in known_models:
        raise InvalidInput(
            f"the model {row.request.model!r} does not exist", code="model_not_found", param="body.model"
        )


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found
