"""How an answer is delivered: at once or in the background, and whether its stream may be taken up again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from services.gateway.bodies import Body
from services.gateway.complaints import translate
from services.gateway.jobs.metadata import Metadata
from shared.contracts.chat import ChatBody
from shared.contracts.completions import CompletionBody
from shared.errors import InvalidInput

F = TypeVar("F", bound=Body)

MOST_PRIORITY = 100
MOST_SECONDS = 7 * 24 * 3600


class ExpiresAfter(Body):
    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(ge=1, le=MOST_SECONDS)


class Delivery(Body):
    """What a request says of its delivery and not of its answer."""

    background: bool | None = Field(
        None,
        examples=[True],
        description="Answer with a job (202) and make the answer in the background; with stream, its stream at once.",
    )
    priority: int | None = Field(
        None,
        ge=-MOST_PRIORITY,
        le=MOST_PRIORITY,
        examples=[10],
        description="Of a background answer among its tenant's own; above 0 it is computed beside live requests.",
    )
    expires_after: ExpiresAfter | None = Field(
        None,
        examples=[{"anchor": "created_at", "seconds": 3600}],
        description="A background answer that no worker has begun by then expires; a day where none is given.",
    )
    resumable: bool | None = Field(
        None,
        examples=[True],
        description="Give the chunks of a stream ids, and let it be taken up again where Content-Location says.",
    )

    @model_validator(mode="after")
    def _of_the_background_alone(self) -> Self:
        for name in ("priority", "expires_after"):
            if getattr(self, name) is not None and not self.background:
                raise InvalidInput(f"{name} is only allowed with background=true", param=name)
        return self

    @property
    def stored(self) -> bool:
        """Whether the answer is to be kept."""
        return False

    @property
    def window(self) -> timedelta:
        return timedelta(seconds=self.expires_after.seconds if self.expires_after else 24 * 3600)


class ChatOrder(Delivery):
    """The same of a chat."""

    store: bool | None = Field(
        None,
        examples=[True],
        description="Keep the messages and the answer, under `metadata`, for evals, for training and to be read again.",
    )

    @property
    def stored(self) -> bool:
        return bool(self.store)


class Labels(Body):
    metadata: Metadata | None = None


class ChatDelivery(ChatBody, ChatOrder):
    """The whole body of a chat, for the API's pages."""

    metadata: Metadata | None = Field(
        None,
        examples=[{"use": "refunds"}],
        description="Up to sixteen labels that a stored chat, or the job of one in the background, is found by.",
    )


class TextDelivery(CompletionBody, Delivery):
    """The same of a text completion."""


D = TypeVar("D", bound=Delivery)


def split(body: Mapping[str, Any], form: type[D]) -> tuple[D, dict[str, Any]]:
    """(how to deliver, the request itself). Raises InvalidInput with the place."""
    rest = dict(body)
    named = {name: rest.pop(name) for name in form.model_fields if name in rest}
    delivery = _read(form, named)
    if delivery.resumable and body.get("stream") is not True:
        raise InvalidInput("resumable is only allowed with stream=true", param="resumable")
    return delivery, rest


def labels(body: Mapping[str, Any]) -> dict[str, str] | None:
    """The metadata of an answer that its job is listed by, or that it is stored under. Raises InvalidInput with the
    place."""
    return _read(Labels, {"metadata": body.get("metadata")}).metadata


def _read(form: type[F], named: Mapping[str, Any]) -> F:
    try:
        return form.model_validate(named)
    except ValidationError as exc:
        raise translate(exc, named, form) from exc
