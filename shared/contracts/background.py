"""A chat or a text completion as a job: asked for now, and fetched or streamed later."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from shared.contracts.answers import answer_id
from shared.contracts.base import JobContract, Message
from shared.contracts.inference import Generate
from shared.contracts.marking import Marking
from shared.contracts.model_registry import ReleaseUsed


class TaskUsed(Message):
    """The version of a task whose output guards the answer must keep to."""

    id: str
    name: str
    version: int


class ChatJob(JobContract):
    """One request for an answer in the background; `shown` is the model as the answer names it."""

    kind: ClassVar[str] = "inference.chat"
    queue: ClassVar[str] = "inference.{pool}.chats.batch"
    id_prefix: ClassVar[str] = "chatjob-"
    time_limit_s: ClassVar[float | None] = 6 * 3600.0

    endpoint: Literal["/v1/chat/completions", "/v1/completions"]
    call: Generate
    shown: str
    include_usage: bool = False
    task: TaskUsed | None = None
    release: ReleaseUsed | None = None
    # As it stood when the chat was accepted; the answer is kept without it, and marked for whoever reads it.
    marking: Marking | None = None
    # Kept as a stored chat too, under the job's metadata.
    store: bool = False


def chats_queue(pool: str, base: str) -> str:
    """Where workers that name this base in HELIU_MODELS wait for it."""
    return f"inference.{pool}.{base}.chats.batch"


def answer_of(job_id: str, endpoint: str) -> str:
    """The id of the answer, the same for every attempt."""
    return answer_id(endpoint, job_id.removeprefix(ChatJob.id_prefix))


def pack_entries(entries: Sequence[tuple[str, dict[str, Any]]]) -> bytes:
    """(type, data) of all that was said, as it is stored: a text may hold what no column of text or JSON can."""
    return gzip.compress(json.dumps(entries, separators=(",", ":")).encode(), mtime=0)


def unpack_entries(packed: bytes) -> list[tuple[str, dict[str, Any]]]:
    return [(type_, data) for type_, data in json.loads(gzip.decompress(packed))]
