"""Rows for every kind of head from the hand-written dialogues, with no phrasing on both sides.

`python -m deploy.samples.heads --head rank_pairwise --language en --output FOLDER` writes `train.jsonl` and
`held_out.jsonl`: a question's intent; the two intents of two questions in one text; how long its right answer is; its
right answer before those to other questions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from deploy.samples.dialogues import Dialogue
from deploy.samples.dice import Dice
from deploy.samples.intents import HELD_OUT, TRAINING, apart
from deploy.samples.material import LANGUAGES
from shared.contracts.heads import HeadKind

# Wrong answers beside the right one of a question.
WRONG = 3
Rows = list[dict[str, Any]]


def rows(
    head: HeadKind, code: str, seed: int, *, training: int = TRAINING, held_out: int = HELD_OUT
) -> tuple[Rows, Rows]:
    """(training, held out) from so many questions each; ranks have some rows a question."""
    parts = apart(code, seed, training=training, held_out=held_out)
    learned, held = (_of(head, part, Dice(seed + number)) for number, part in enumerate(parts, 2))
    return learned, held


def _of(head: HeadKind, dialogues: Sequence[Dialogue], dice: Dice) -> Rows:
    if head == "single_label":
        return [{"text": one.question, "label": one.intent} for one in dialogues]
    if head == "multi_label":
        return _pairs(dialogues, dice)
    if head == "regression":
        return [{"text": one.question, "score": float(len(_answer(one)))} for one in dialogues]
    found: Rows = []
    for one in dialogues:
        right, wrong = _answer(one), _wrong(one, dialogues, dice)
        if head == "rank_pairwise":
            found += [{"query": one.question, "positive": right, "negative": text} for text in wrong]
        else:
            documents = ((right, 1.0), *((text, 0.0) for text in wrong))
            found += [{"query": one.question, "document": text, "score": score} for text, score in documents]
    return found


def _pairs(dialogues: Sequence[Dialogue], dice: Dice) -> Rows:
    """Every question, half of them with another one behind it."""
    found = []
    for one in dialogues:
        other = dice.pick(dialogues) if dice.chance(0.5) else one
        text = one.question if other is one else f"{one.question} {other.question}"
        found.append({"text": text, "labels": sorted({one.intent, other.intent})})
    return found


def _answer(dialogue: Dialogue) -> str:
    return dialogue.messages[1][1]


def _wrong(dialogue: Dialogue, dialogues: Sequence[Dialogue], dice: Dice) -> list[str]:
    """Different answers to questions of other intents."""
    found: dict[str, None] = {}
    while len(found) < WRONG:
        other = dice.pick(dialogues)
        if other.intent != dialogue.intent:
            found[_answer(other)] = None
    return list(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", choices=get_args(HeadKind), default="single_label")
    parser.add_argument("--language", choices=LANGUAGES, default="zh")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    for name, found in zip(("train", "held_out"), rows(asked.head, asked.language, asked.seed), strict=True):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (asked.output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
