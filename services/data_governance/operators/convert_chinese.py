"""Writes Chinese in one set of characters, by OpenCC's dictionaries (its wheel brings them)."""

from __future__ import annotations

from collections.abc import Sequence

import opencc

from services.data_governance.operators.passes import rewritten
from services.data_governance.rows import Outcome, Row
from shared.contracts.steps.convert_chinese import ConvertChinese


class Convert:
    """Rule `chinese_converted`, once for each text that changed."""

    def __init__(self, step: ConvertChinese) -> None:
        self._convert = opencc.OpenCC(step.params.config).convert

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        return rewritten(rows, self._text)

    def _text(self, text: str, counts: dict[str, int]) -> str:
        if text.isascii():
            return text
        converted = str(self._convert(text))
        if converted != text:
            counts["chinese_converted"] = counts.get("chinese_converted", 0) + 1
        return converted
