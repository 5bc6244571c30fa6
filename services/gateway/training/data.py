"""What is known of training data before a run reads it: rows and characters, by report or by a look at its beginning.

Knows no tokenizer: how many tokens that comes to is a guess by script and size of the vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# So much of an uploaded file is looked at.
LOOK_BYTES = 1 << 18
_LABELS = frozenset({"label", "labels"})
# By script of a row, the share of its characters that stand for about a token each.
_DENSE = {"chinese": 1.0, "japanese": 1.0, "korean": 1.0, "mixed": 0.5}


@dataclass(frozen=True)
class TrainingData:
    """`mean` and `most` characters of a row, `high` that 95 of 100 rows do not pass (0: as `most`); `dense` is the
    share of them that is Chinese, Japanese or Korean."""

    rows: int
    mean: float
    most: int
    dense: float
    basis: str
    high: int = 0

    def tokens_a_row(self, vocabulary: int) -> float:
        return max(1.0, self.mean / self._per_token(vocabulary))

    def longest(self, vocabulary: int) -> int:
        return max(1, math.ceil(self.most / self._per_token(vocabulary)))

    def usual(self, vocabulary: int) -> int:
        """Tokens of the rows that a batch of long ones has: they are put together by their length."""
        return max(1, math.ceil((self.high or self.most) / self._per_token(vocabulary)))

    def _per_token(self, vocabulary: int) -> float:
        """Characters of a token: of English about 3 with 2,000 entries and 4.4 with 150,000, of Chinese 1.0 and 1.6."""
        doublings = math.log2(max(256, vocabulary) / 2048)
        latin = min(4.5, max(2.0, 3.0 + 0.22 * doublings))
        dense = min(1.7, max(0.8, 1.0 + 0.09 * doublings))
        return 1 / (self.dense / dense + (1 - self.dense) / latin)


def of_version(row: Mapping[str, Any]) -> TrainingData | None:
    """By the quality report of a version; None where it has none."""
    chars = (row["report"] or {}).get("chars") or {}
    if not chars or not row["train_rows"]:
        return None
    scripts: Mapping[str, float] = row["report"].get("scripts") or {}
    dense = sum(share * _DENSE.get(name, 0.0) for name, share in scripts.items())
    return TrainingData(
        int(row["train_rows"]),
        float(chars["mean"]),
        int(chars["max"]),
        min(1.0, dense),
        "the version's report",
        int(chars.get("p95") or 0),
    )


def of_file(beginning: bytes, size: int, *, labelled: bool = False) -> TrainingData | None:
    """By the first lines of JSON of a file of `size` bytes; None where there is not one whole line.

    Rows that are `labelled` are learned from by their texts alone.
    """
    lines = beginning.split(b"\n")
    whole = lines if len(beginning) >= size else lines[:-1]
    lengths, dense, seen, read = [], 0, 0, 0
    for line in whole:
        read += len(line) + 1
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if labelled and isinstance(row, dict):
            row = {name: value for name, value in row.items() if name not in _LABELS}
        text = "".join(_texts(row))
        lengths.append(len(text))
        dense += sum("\u3040" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7af" for char in text)
        seen += len(text)
    if not lengths or not seen:
        return None
    rows = max(len(lengths), round(size * len(lengths) / read)) if len(beginning) < size else len(lengths)
    high = sorted(lengths)[math.ceil(0.95 * len(lengths)) - 1]
    return TrainingData(rows, seen / len(lengths), max(lengths), dense / seen, "the file's first rows", high)


def _texts(value: Any) -> Iterator[str]:
    """Every text of a row, but not what its fields are called."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
