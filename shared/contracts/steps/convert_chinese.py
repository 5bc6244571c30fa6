"""Simplified and traditional characters."""

from __future__ import annotations

from typing import ClassVar, Literal

from shared.contracts.steps.base import StepBase, Strict


class ConvertChineseParams(Strict):
    """OpenCC's names: `s` simplified, `t` traditional, `tw` Taiwan's, `hk` Hong Kong's, `p` with its own words."""

    config: Literal[
        "t2s", "s2t", "tw2s", "tw2sp", "s2tw", "s2twp", "hk2s", "s2hk", "t2tw", "tw2t", "t2hk", "hk2t"
    ] = "t2s"


class ConvertChinese(StepBase):
    """Chinese written in one set of characters, by OpenCC's dictionaries."""

    before: ClassVar[dict[str, str]] = {
        "mask_pii": "names and the words beside numbers are known in simplified characters",
        "blocked_words": "a word would be missed in its other characters",
        "exact_duplicates": "converting makes new duplicates",
        "near_duplicates": "converting makes new duplicates",
        "conflicting_labels": "converting makes more questions the same",
    }

    op: Literal["convert_chinese"]
    params: ConvertChineseParams = ConvertChineseParams()
