"""What must hold of a row's fields."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import SchemaError, SchemaValidator, core_schema

from shared.contracts.steps.base import Count, Name, StepBase, Strict

MAX_CHECKS = 100
Number = int | Annotated[float, Field(allow_inf_nan=False)]
Allowed = Annotated[str, Field(max_length=1000)] | Number | bool


class Check(Strict):
    """Conditions on one field: `text`, `label`, `id`, or another column; a conversation's text is its turns in lines.

    Nulls meet every condition but `required`. `min` and `max` are for numbers; `pattern` must match the whole text
    (linear time: no look-around, no back references); lengths are in characters. Without `type`, `min` and `max` ask
    for a number, and `pattern` and the lengths for text. The rule of a drop is the field's name and the condition.
    """

    field: Name
    type: Literal["str", "int", "float", "number", "bool", "date", "datetime"] | None = None
    required: bool = False
    min: Number | None = None
    max: Number | None = None
    allowed: Annotated[list[Allowed], Field(min_length=1, max_length=10_000)] | None = None
    pattern: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    min_length: Count | None = None
    max_length: Count | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        told = [name for name in ("type", "min", "max", "allowed", "pattern", "min_length", "max_length")
                if getattr(self, name) is not None]  # fmt: skip
        if not told and not self.required:
            raise ValueError(
                f"the check of `{self.field}` asks for nothing; give `required`, `type`, `min`, ..."
            )
        for low, high in (("min", "max"), ("min_length", "max_length")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(f"`{low}` ({least}) is above `{high}` ({most})")
        self._fits()
        if self.pattern is not None:
            _compiles(self.pattern)
        return self

    def _fits(self) -> None:
        """Conditions that no value of the type could be asked for."""
        numeric = [name for name in ("min", "max") if getattr(self, name) is not None]
        textual = [
            name for name in ("pattern", "min_length", "max_length") if getattr(self, name) is not None
        ]
        if numeric and self.type not in (None, "int", "float", "number"):
            raise ValueError(
                f"`{numeric[0]}` is for numbers, and `{self.field}` is to be of type {self.type}"
            )
        if textual and self.type not in (None, "str", "date", "datetime"):
            raise ValueError(f"`{textual[0]}` is for text, and `{self.field}` is to be of type {self.type}")
        if numeric and textual and self.type is None:
            raise ValueError(
                f"`{numeric[0]}` is for numbers and `{textual[0]}` for text; a field is one of them"
            )


class CheckRowsParams(Strict):
    """Checks, of which a row must meet all."""

    checks: Annotated[list[Check], Field(min_length=1, max_length=MAX_CHECKS)]

    @model_validator(mode="after")
    def _once(self) -> Self:
        names = [check.field for check in self.checks]
        twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
        if twice is not None:
            raise ValueError(f"`{twice}` has two checks; put their conditions into one")
        return self


class CheckRows(StepBase):
    """Rows that break a declared check."""

    repeatable: ClassVar[bool] = True

    op: Literal["check_rows"]
    params: CheckRowsParams


def _compiles(pattern: str) -> None:
    try:
        SchemaValidator(core_schema.str_schema(pattern=f"^(?:{pattern})$", regex_engine="rust-regex"))
    except SchemaError as exc:
        reason = " ".join(str(exc).partition("SchemaError: ")[2].split())[:200]
        raise ValueError(f"`pattern` is no regular expression that runs in linear time: {reason}") from exc
