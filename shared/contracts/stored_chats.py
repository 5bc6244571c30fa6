"""Chats that are stored for their client: what is kept of one, how some are chosen, and the job that writes a file.

Pure. What a chat is shown as, asked again or trained on is made of this by whoever does so.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from shared.contracts.base import JobContract, Message
from shared.contracts.inference import ChatMessage, Completion, Sampling, Tool
from shared.contracts.marking import Marking
from shared.errors import InvalidInput

# What is chosen at once, for a file or for an eval.
MOST_CHATS = 50_000
# Bytes of what is sent to the model; an item of an eval and a line of training have twice that.
LARGEST = 512 * 1024

Unix = Annotated[int, Field(ge=0, le=253_402_300_799)]
Labels = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class ChatFilter(Message):
    """Chats of a model, task or registered name, with all of these labels, of a time (unix seconds, both inclusive)."""

    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    metadata: Labels = Field(default_factory=dict)
    created_after: Unix | None = None
    created_before: Unix | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        after, before = self.created_after, self.created_before
        if after is not None and before is not None and after > before:
            raise InvalidInput(
                f"created_after is {after}, which is behind created_before, {before}", param="created_after"
            )
        return self


class Chosen(ChatFilter):
    """The newest of those, `limit` at most."""

    limit: int = Field(MOST_CHATS, ge=1, le=MOST_CHATS)


class StoredBody(Message):
    """What is kept of a chat: the messages that the model was sent, behind the guards and the template of a task, and
    its choices as they were shown, without label and probabilities."""

    created: int
    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None
    sampling: Sampling
    choices: list[dict[str, Any]]
    usage: dict[str, int]
    marking: Marking | None = None
    request_id: str | None = None


class ExportChats(JobContract):
    """Stored chats as a file of `messages` for fine-tuning."""

    kind: ClassVar[str] = "data.export_chats"
    queue: ClassVar[str] = "data"
    id_prefix: ClassVar[str] = "chatexport-"
    stall_limit_s: ClassVar[float | None] = 300.0

    chats: Chosen
    filename: str


def names_of(shown: str, model: str) -> tuple[str, ...]:
    """Every name that a chat is looked for by: as its answer names the model, the same without its version, and the
    model that answered."""
    unversioned = shown.rpartition("@")[0] or shown
    return tuple(dict.fromkeys((shown, unversioned, model)))


def check_size(asked: Completion) -> None:
    """Raise InvalidInput for messages that are too large to be stored."""
    size = sum(len(one.model_dump_json().encode()) for one in (*asked.messages, *asked.tools))
    if size > LARGEST:
        raise InvalidInput(
            f"messages and tools have {size} bytes of JSON; a chat that is stored has {LARGEST} at most; leave store "
            "out, or say less",
            param="store",
        )


def body_of(
    asked: Completion,
    *,
    created: int,
    choices: list[dict[str, Any]],
    usage: dict[str, int],
    marking: Marking | None = None,
    request_id: str | None = None,
) -> dict[str, Any]:
    """A StoredBody as JSON holds it; of a choice what its probabilities were is left out."""
    told = {
        "created": created,
        "messages": [one.model_dump(mode="json", exclude_defaults=True) for one in asked.messages],
        "tools": [one.model_dump(mode="json") for one in asked.tools],
        "tool_choice": asked.tool_choice,
        # The grammar follows from its form.
        "sampling": asked.sampling.model_dump(mode="json", exclude_defaults=True, exclude={"grammar"}),
        "choices": [{k: v for k, v in one.items() if k != "logprobs"} for one in choices],
        "usage": dict(usage),
        "marking": marking.model_dump(mode="json") if marking is not None else None,
        "request_id": request_id,
    }
    return {name: value for name, value in told.items() if value not in (None, [])}
