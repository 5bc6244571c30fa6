"""What every step of a recipe has in common. Reads no file, runs nothing."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

OnDrop = Literal["drop", "fail"]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class Strict(BaseModel):
    """Unknown fields are refused, values are never converted, instances never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NoParams(Strict):
    """An operator without parameters."""


class StepBase(Strict):
    """One step. `on_drop: fail` stops the build at the first row that the step would drop.

    `before` names the operators that this one must stand before, and why. A `repeatable` one may stand in a recipe
    more than once.
    """

    before: ClassVar[dict[str, str]] = {}
    repeatable: ClassVar[bool] = False

    version: Literal[1] = 1
    on_drop: OnDrop = "drop"
