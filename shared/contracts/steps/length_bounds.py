"""Rows of an unfit size."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.steps.base import Count, StepBase, Strict


class LengthBoundsParams(Strict):
    """Characters of the whole row, turns counted as user messages; plain text has no turns."""

    min_chars: Count = 1
    max_chars: Annotated[int, Field(ge=1, le=2**31)] = 100_000
    min_turns: Count = 1
    max_turns: Annotated[int, Field(ge=1, le=2**31)] = 10_000

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        for what in ("chars", "turns"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if low > high:
                raise ValueError(f"`min_{what}` ({low}) is above `max_{what}` ({high})")
        return self


class LengthBounds(StepBase):
    """Rows that are too short or too long."""

    op: Literal["length_bounds"]
    params: LengthBoundsParams = LengthBoundsParams()
