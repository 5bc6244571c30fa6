"""What the worker says to the process that forwards, checked. Pure; what it says back are the engine's frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from shared.contracts.inference import Completion, Embedding


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Configure(_Message):
    """The first frame. `hosts` may have private addresses; `slots` are requests in one server at once."""

    op: Literal["configure"]
    hosts: tuple[tuple[str, int], ...] = ()
    slots: int = Field(ge=1)
    silence_s: float = Field(gt=0)


class Upstream(_Message):
    """The server, what the model is called there, and the key. `context` is its length in tokens, where known."""

    name: str
    url: str
    model: str
    api_key: str | None = Field(default=None, repr=False)
    context: int | None = None


class Forward(_Message):
    """One request of a client: `ids` are its choices or texts, each of which gets a `done` or an `error`.

    `start_s` is how long it may wait for a place there; None for rows of a batch, which have time. `stream` says that
    somebody reads it as it grows: without it, whoever is live.
    """

    op: Literal["forward"]
    id: str
    ids: tuple[str, ...] = Field(min_length=1)
    upstream: Upstream
    completion: Completion | None = None
    embedding: Embedding | None = None
    priority: Literal["live", "batch"] = "live"
    stream: bool | None = None
    start_s: float | None = None
    traceparent: str | None = None
    tenant: str = ""

    @property
    def live(self) -> bool:
        return self.priority == "live"

    @property
    def streamed(self) -> bool:
        return self.live if self.stream is None else self.stream


class Cancel(_Message):
    op: Literal["cancel"]
    id: str


Operation = Forward | Cancel
CONFIGURE: TypeAdapter[Configure] = TypeAdapter(Configure)
OPERATION: TypeAdapter[Operation] = TypeAdapter(Annotated[Operation, Field(discriminator="op")])


def forward(
    name: str, ids: Sequence[str], wanted: Completion | Embedding, common: Mapping[str, Any]
) -> dict[str, Any]:
    """The frame of a request; `common` has `upstream` and whatever else is the same for all requests to it."""
    form = Completion if isinstance(wanted, Completion) else Embedding
    fields = {field: getattr(wanted, field) for field in form.model_fields}
    kind = "completion" if form is Completion else "embedding"
    return {
        "op": "forward",
        "id": name,
        "ids": ids,
        **common,
        kind: form(**fields).model_dump(mode="json"),
    }
