"""A batch of requests as a job, and its shards."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from shared.contracts.base import JobContract
from shared.contracts.inference import Endpoint, ModelRef
from shared.contracts.model_registry import RegisteredRoute
from shared.contracts.task import TaskRoute


class Batch(JobContract):
    """A file of requests: checked and cut into shards, then, when they have ended, put together."""

    kind: ClassVar[str] = "inference.batch"
    queue: ClassVar[str] = "inference.{pool}.batch"
    id_prefix: ClassVar[str] = "batch_"

    input_file_id: str
    artifact: str
    endpoint: Endpoint
    completion_window: Literal["24h"] = "24h"
    models: dict[str, ModelRef]
    # By name, as they stood when the batch was accepted.
    tasks: dict[str, TaskRoute] = Field(default_factory=dict)
    registered: dict[str, RegisteredRoute] = Field(default_factory=dict)
    pool: str = "default"


class BatchShard(JobContract):
    """Rows `first` .. `first + count - 1` of a batch, at bytes `start` .. `end` of its input."""

    kind: ClassVar[str] = "inference.batch_shard"
    queue: ClassVar[str] = "inference.{pool}.rows.batch"
    id_prefix: ClassVar[str] = "shard_"

    batch_id: str
    artifact: str
    endpoint: Endpoint
    models: dict[str, ModelRef]
    tasks: dict[str, TaskRoute] = Field(default_factory=dict)
    registered: dict[str, RegisteredRoute] = Field(default_factory=dict)
    # What was found for rows whose tasks answer from a vector store: an artifact, as of `FindPassages`.
    passages: str | None = None
    first: int = Field(ge=0)
    count: int = Field(ge=1)
    start: int = Field(ge=0)
    end: int = Field(ge=0)
