"""Chinese questions that mean the same, from hand-written topics, wordings and synonyms, with a seed.

`python -m deploy.samples.paraphrases --output FOLDER` writes `train.jsonl` and `validation.jsonl` for a sentence
encoder (rows of `text` and `label`). What is held out never goes into training: of each topic one reworded question
(validation) and two colloquial ones, and 32 topics whole.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "material" / "paraphrases_zh.json"
EACH, COMPOSED = 50, 5000
_SLOT = re.compile(r"\{(.+?)\}")


@dataclass(frozen=True)
class Topic:
    """A question in its standard form (`title`), and in other words; one that has no `wordings` is held out whole."""

    field: str
    title: str
    wordings: tuple[str, ...]
    reworded: str | None
    colloquial: tuple[str, ...]


@dataclass(frozen=True)
class Material:
    slots: dict[str, list[str]]
    openers: list[str]
    closers: list[str]
    synonyms: list[list[str]]
    topics: tuple[Topic, ...]


def load() -> Material:
    told: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    topics = tuple(
        Topic(t["field"], t["title"], tuple(t["wordings"]), t["reworded"], tuple(t["colloquial"]))
        for t in told["topics"]
    )
    return Material(told["slots"], told["openers"], told["closers"], told["synonyms"], topics)


class Writer:
    """Rewrites a wording: slots filled, words put for their like, parts in another order, a character lost."""

    def __init__(self, material: Material, seed: int) -> None:
        self._material = material
        self._draw = random.Random(seed)
        pairs = [(word, group) for group in material.synonyms for word in group]
        self._words = sorted(pairs, key=lambda pair: -len(pair[0]))

    def rewritten(self, wording: str, share: float = 0.6) -> str:
        """`share` of the words that have synonyms become one of them."""
        draw = self._draw
        text = "".join(self._replaced(self.filled(wording), share))
        parts = text.split("，")
        if len(parts) > 1 and draw.random() < 0.3:
            draw.shuffle(parts)
            text = "，".join(parts)
        if draw.random() < 0.1 and len(text) > 4:
            lost = draw.randrange(len(text))
            text = text[:lost] + text[lost + 1 :]
        return self._framed(text)

    def filled(self, wording: str) -> str:
        return _SLOT.sub(lambda slot: self._draw.choice(self._material.slots[slot[1]]), wording)

    def composed(self) -> tuple[str, str]:
        """Two texts of the same few meanings, in other words and another order: what words mean alone."""
        draw = self._draw
        groups = draw.sample(self._material.synonyms, draw.choice([1, 2, 2, 3, 3, 4]))
        first = "".join(draw.choice(group) for group in groups)
        draw.shuffle(groups)
        return self._framed(first), self._framed("".join(draw.choice(group) for group in groups))

    def _framed(self, text: str) -> str:
        draw, material = self._draw, self._material
        before = draw.choice(material.openers) if draw.random() < 0.6 else ""
        after = draw.choice(material.closers) if draw.random() < 0.6 else ""
        return before + text + after

    def _replaced(self, text: str, share: float) -> Iterator[str]:
        at = 0
        while at < len(text):
            for word, group in self._words:
                if text.startswith(word, at) and self._draw.random() < share:
                    yield self._draw.choice(group)
                    at += len(word)
                    break
            else:
                yield text[at]
                at += 1


def training_rows(
    material: Material, seed: int, *, each: int = EACH, composed: int = COMPOSED
) -> list[dict[str, str]]:
    """`each` texts of each topic that is not held out, and `composed` pairs of words put together."""
    writer = Writer(material, seed)
    rows = []
    for topic in material.topics:
        forms = (topic.title, *topic.wordings)
        for number in range(each if topic.wordings else 0):
            rows.append({"text": writer.rewritten(forms[number % len(forms)]), "label": topic.title})
    for number in range(composed):
        rows += [{"text": text, "label": f"composed {number}"} for text in writer.composed()]
    return rows


def validation_rows(material: Material, seed: int) -> list[dict[str, str]]:
    writer = Writer(material, seed + 1)
    return [{"text": writer.filled(t.reworded), "label": t.title} for t in material.topics if t.reworded]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    material = load()
    asked.output.mkdir(parents=True, exist_ok=True)
    _write(asked.output / "train.jsonl", training_rows(material, asked.seed))
    _write(asked.output / "validation.jsonl", validation_rows(material, asked.seed))


def _write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
