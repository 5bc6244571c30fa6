"""What a contract is: a strict, frozen message with its queue, attempts and time limit. Pure."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """Anything that crosses a process border: unknown fields refused, NaN refused, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class JobContract(Message):
    """A durable job's payload. `queue` may hold `{pool}`; ids of its jobs start with `id_prefix`."""

    kind: ClassVar[str]
    queue: ClassVar[str]
    id_prefix: ClassVar[str] = "job_"
    max_attempts: ClassVar[int] = 3
    max_crashes: ClassVar[int] = 3
    time_limit_s: ClassVar[float | None] = None
    stall_limit_s: ClassVar[float | None] = None

    @classmethod
    def queue_for(cls, pool: str = "default") -> str:
        return cls.queue.format(pool=pool)

    def dump(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class LiveCall(Message):
    """A live request's payload: a client waits for the answer, nothing is stored."""

    name: ClassVar[str]
    queue: ClassVar[str]

    @classmethod
    def queue_for(cls, pool: str = "default") -> str:
        return cls.queue.format(pool=pool)

    def queues_for(self, pool: str) -> tuple[str, ...]:
        """Whose workers may serve this call, the best first."""
        return (self.queue_for(pool),)

    @property
    def needs(self) -> str:
        """What a worker must serve to take it, in words for whoever waits: `the model 'x'`; empty where any may."""
        return ""

    @property
    def served_by(self) -> str:
        """What to start so that it is served, in words."""
        return ""

    def dump(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
