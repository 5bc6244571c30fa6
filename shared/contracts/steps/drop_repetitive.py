"""Rows that say the same over and over."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.steps.base import Count, Ratio, StepBase, Strict


class DropRepetitiveParams(Strict):
    """Limits as in Gopher's rules (Rae et al. 2021, appendix A), with Chinese by characters instead of words.

    Shares are of a row's tokens. `max_duplicate_ngrams`: n-grams (5 words, or 10 characters) that came before;
    `max_top_ngram`: the share that the most frequent one (2 words, or 4 characters) covers; `max_duplicate_lines`:
    characters in lines that came before; `max_run`: times that one character may stand in a row. Rows with fewer than
    `min_tokens` tokens are judged by runs alone.
    """

    max_duplicate_ngrams: Ratio = 0.4
    max_top_ngram: Ratio = 0.25
    max_duplicate_lines: Ratio = 0.4
    max_run: Annotated[int, Field(ge=2, le=10_000)] = 80
    min_tokens: Count = 40


class DropRepetitive(StepBase):
    """Rows whose words, lines or characters repeat beyond a limit."""

    op: Literal["drop_repetitive"]
    params: DropRepetitiveParams = DropRepetitiveParams()
