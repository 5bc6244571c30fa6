"""Labels that one dataset has far more rows of than of others."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.steps.base import StepBase, Strict


class BalanceLabelsParams(Strict):
    """The most rows of one label: `max_ratio` times those of the rarest, or `max_rows`; the lower of the two.

    Labels of fewer than `min_rows` rows are not the rarest: a handful of slips must not cut all others down. Rows
    without a label stay. Which rows go depends on them and on `seed` alone: another seed
    draws others.
    """

    max_ratio: Annotated[float, Field(ge=1.0, le=1e6, allow_inf_nan=False)] | None = None
    max_rows: Annotated[int, Field(ge=1, le=2**40)] | None = None
    min_rows: Annotated[int, Field(ge=1, le=2**40)] = 10
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        if self.max_ratio is None and self.max_rows is None:
            raise ValueError("give `max_ratio`, `max_rows` or both; without a limit nothing would go")
        return self


class BalanceLabels(StepBase):
    """Rows of labels that are too frequent, a fair draw of them."""

    before: ClassVar[dict[str, str]] = {}

    op: Literal["balance_labels"]
    params: BalanceLabelsParams
