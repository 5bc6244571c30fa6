"""Languages that a dataset is meant to have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.steps.base import Count, Ratio, StepBase, Strict

Language = Literal[
    "zh", "en", "ja", "ko", "fr", "de", "es", "pt", "it", "nl", "vi", "id", "ms", "tl", "tr", "pl", "sv", "da", "no",
    "fi", "cs", "ro", "hu", "ca", "ru", "uk", "bg", "sr", "mk", "kk", "ar", "fa", "ur", "hi", "mr", "ne", "th", "el",
    "he",
]  # fmt: skip
Languages = Annotated[list[Language], Field(min_length=1, max_length=39)]


class FilterLanguageParams(Strict):
    """Languages (ISO 639-1) to keep. Scripts are looked at first; a model tells languages of one script apart.

    The model chooses among `candidates` (with `keep`; all known ones without), and its choice counts from
    `min_probability` on. `undecided` says what becomes of rows below it, and of rows with fewer than `min_letters`
    letters (a Chinese character counts as three).
    """

    keep: Languages = Field(default=["zh", "en"])
    candidates: Languages | None = None
    min_probability: Ratio = 0.6
    min_letters: Count = 16
    undecided: Literal["keep", "drop"] = "keep"


class FilterLanguage(StepBase):
    """Rows in a language that is not kept."""

    op: Literal["filter_language"]
    params: FilterLanguageParams = FilterLanguageParams()
