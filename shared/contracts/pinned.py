"""The decoding settings that a training job pins to the model that it makes. Pure."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.contracts.base import Message
from shared.contracts.generation_config import OF_DRAWING, Settings


class PinnedDecoding(Message):
    """How the model answers where a request does not say; what is left out is as of the model before."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        default=None, description="How boldly tokens are drawn; 0 takes the likeliest."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Of the likeliest tokens, as many as have this probability together."
    )
    top_k: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        default=None, description="Of so many of the likeliest tokens; 0 is of all."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Of tokens with at least this share of the likeliest one's probability."
    )
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = Field(
        default=None, description="Above 1 makes less likely what stands in prompt or answer; 1 is none."
    )
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = Field(
        default=None, description="Tokens of an answer at most."
    )

    @model_validator(mode="after")
    def _draws_or_not(self) -> Self:
        idle = [name for name in OF_DRAWING if getattr(self, name) is not None]
        if self.temperature == 0 and idle:
            raise ValueError(f"temperature 0 takes the likeliest token, so leave out {', '.join(idle)}")
        return self

    def settings(self) -> Settings:
        """What is pinned, by name."""
        return self.model_dump(exclude_none=True)
