"""Live calls and jobs of inference: chat, batches and their shards."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.base import JobContract, LiveCall, Message


class ModelRef(Message):
    """A served model by content; a worker fetches the artifacts at first use."""

    name: str
    base_artifact: str
    adapter_artifact: str | None = None


class ChatMessage(Message):
    role: Literal["system", "developer", "user", "assistant"]
    content: str


class Sampling(Message):
    """Decoding settings of one request; temperature 0 is greedy."""

    max_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = None
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, le=100_000)
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: tuple[str, ...] = Field((), max_length=4)


class Generate(LiveCall):
    """One chat answer, streamed back as it is made."""

    name: ClassVar[str] = "inference.generate"
    queue: ClassVar[str] = "inference.{pool}.live"

    model: ModelRef
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    sampling: Sampling = Sampling()


class Batch(JobContract):
    """A file of requests: checked and cut into shards, then, when they have ended, put together."""

    kind: ClassVar[str] = "inference.batch"
    queue: ClassVar[str] = "inference.{pool}.batch"
    id_prefix: ClassVar[str] = "batch_"

    input_file_id: str
    artifact: str
    endpoint: Literal["/v1/chat/completions"]
    completion_window: Literal["24h"] = "24h"
    models: dict[str, ModelRef]
    pool: str = "default"


class BatchShard(JobContract):
    """Rows `first` .. `first + count - 1` of a batch, at bytes `start` .. `end` of its input."""

    kind: ClassVar[str] = "inference.batch_shard"
    queue: ClassVar[str] = "inference.{pool}.batch"
    id_prefix: ClassVar[str] = "shard_"

    batch_id: str
    artifact: str
    endpoint: Literal["/v1/chat/completions"]
    models: dict[str, ModelRef]
    first: int = Field(ge=0)
    count: int = Field(ge=1)
    start: int = Field(ge=0)
    end: int = Field(ge=0)
