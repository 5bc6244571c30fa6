"""Words that may not stand in a dataset."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.steps.base import StepBase, Strict

MAX_WORDS = 10_000
MAX_WORD_CHARS = 100
Word = Annotated[str, Field(min_length=1, max_length=MAX_WORD_CHARS)]


class BlockedWordsParams(Strict):
    """Words, and what becomes of a row that has one: `drop` it, `mask` each word, or `flag` the row.

    Case and width make no difference where `fold` is on; `whole_words` says that a word that begins or ends with a
    Latin letter or digit may not stand within a longer one. `mask` writes `replacement`; `flag` writes the numbers
    of the words (from 0) to `meta` under `blocked_words`.
    """

    words: list[Word] = Field(min_length=1, max_length=MAX_WORDS)
    action: Literal["drop", "mask", "flag"] = "drop"
    fold: bool = True
    whole_words: bool = True
    replacement: Annotated[str, Field(max_length=100)] = "***"

    @model_validator(mode="after")
    def _words(self) -> Self:
        blank = next((at for at, word in enumerate(self.words) if not word.strip()), None)
        if blank is not None:
            raise ValueError(f"`words[{blank}]` is blank, and would be found everywhere")
        inside = next(
            (word for word in self.words if self.action == "mask" and word in self.replacement), None
        )
        if inside is not None:
            raise ValueError(f"`replacement` holds the blocked word `{inside}`; choose another")
        return self


class BlockedWords(StepBase):
    """Rows with a word of a list dropped, masked or flagged."""

    before: ClassVar[dict[str, str]] = {
        "exact_duplicates": "masking words makes new duplicates",
        "near_duplicates": "masking words makes new duplicates",
        "length_bounds": "masking words changes lengths",
    }

    op: Literal["blocked_words"]
    params: BlockedWordsParams
