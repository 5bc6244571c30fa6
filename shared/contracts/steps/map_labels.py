"""Labels by the names that a dataset wants them to have."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.steps.base import Name, StepBase, Strict


class MapLabelsParams(Strict):
    """New names by old ones; several old ones may become one. Rows without a label stay as they are.

    `unknown` says what becomes of a label that is neither an old name nor a new one: it is kept, its row dropped, or
    it becomes `default`. `fold` finds old names without regard to case, width and spaces at the ends.
    """

    labels: Annotated[dict[Name, Name], Field(min_length=1, max_length=10_000)]
    unknown: Literal["keep", "drop", "default"] = "keep"
    default: Name | None = None
    fold: bool = False

    @model_validator(mode="after")
    def _default(self) -> Self:
        if (self.unknown == "default") != (self.default is not None):
            raise ValueError("`default` is given where `unknown` is `default`, and only there")
        return self


class MapLabels(StepBase):
    """Labels renamed and merged."""

    before: ClassVar[dict[str, str]] = {
        "conflicting_labels": "labels that become one no longer contradict each other",
        "exact_duplicates": "rows whose labels become one are duplicates",
        "near_duplicates": "rows whose labels become one are duplicates",
    }

    op: Literal["map_labels"]
    params: MapLabelsParams
