"""Rows that are no prose."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.steps.base import Count, Ratio, StepBase, Strict

Length = Annotated[float, Field(ge=0.0, le=1000.0, allow_inf_nan=False)]


class QualityFilterParams(Strict):
    """Limits over a whole row; 0 for a least and 1 for a most turn a rule off. Defaults keep what customers write.

    Shares of letters, digits and symbols (punctuation too) are of the characters that are no space; `max_url_share`
    of all characters; shares of lines are of lines that are not blank. The mean word length is of Latin words, and
    only where there are twenty or more. `min_stop_words` counts different ones, of English and Chinese together.
    `max_symbol_words` is `#` and `…` per word. Rows shorter than `min_chars` are not judged.
    """

    min_letter_share: Ratio = 0.3
    max_digit_share: Ratio = 0.6
    max_symbol_share: Ratio = 0.5
    min_word_length: Length = 2.0
    max_word_length: Length = 14.0
    min_stop_words: Count = 0
    max_bullet_lines: Ratio = 0.95
    max_ellipsis_lines: Ratio = 0.6
    max_symbol_words: Ratio = 0.3
    max_url_share: Ratio = 0.7
    min_chars: Count = 20

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_word_length > self.max_word_length:
            raise ValueError(
                f"`min_word_length` ({self.min_word_length}) is above `max_word_length` ({self.max_word_length})"
            )
        return self


class QualityFilter(StepBase):
    """Rows that a declared limit of form tells to be lists, tables, links or noise."""

    op: Literal["quality_filter"]
    params: QualityFilterParams = QualityFilterParams()
