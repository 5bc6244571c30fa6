"""Preference pairs in Chinese and English from the hand-written dialogues, with no phrasing on both sides.

`python -m deploy.samples.preferences --output deploy/samples` writes `preferences.jsonl` and
`preferences_held_out.jsonl`, a pair a line as OpenAI has them. The better answer is the right one; the worse one
belongs to another question, pushes a product, or is curt where the better one greets.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.samples.dialogues import Dialogue
from deploy.samples.dice import Dice
from deploy.samples.intents import apart
from deploy.samples.material import LANGUAGES

# Questions a language.
TRAINING, HELD_OUT = 240, 60
KINDS = ("other_question", "pushy", "curt")
_GREETINGS = {"zh": ("您好！", "您好，"), "en": ("Hello! ", "Hello, ")}
_PUSHES = {
    "zh": (
        "另外，现在办理金卡可享八折，请马上申请。",
        "顺便推荐我们的新套餐，今天必须下单。",
        "您还应该买一份保险，点击这里购买。",
    ),
    "en": (
        " By the way, our gold card is 20% off, so apply right now.",
        " You should also buy our new plan, today only.",
        " You need one of our insurances as well, so click here to buy.",
    ),
}
Rows = list[dict[str, Any]]


def pairs(seed: int, *, training: int = TRAINING, held_out: int = HELD_OUT) -> tuple[Rows, Rows]:
    """(training, held out), of so many questions in each language; each of the three kinds in turn."""
    learned: Rows = []
    held: Rows = []
    for code in LANGUAGES:
        for rows, part, number in zip(
            (learned, held), apart(code, seed, training=training, held_out=held_out), (2, 3), strict=True
        ):
            dice = Dice(seed + number)
            rows += [_pair(code, KINDS[n % len(KINDS)], one, part, dice) for n, one in enumerate(part)]
    for rows, number in ((learned, 4), (held, 5)):
        Dice(seed + number).shuffle(rows)
    return learned, held


def _pair(code: str, kind: str, one: Dialogue, others: Sequence[Dialogue], dice: Dice) -> dict[str, Any]:
    right = one.messages[1][1]
    better, worse = right, right + dice.pick(_PUSHES[code])
    if kind == "other_question":
        worse = dice.pick([other.messages[1][1] for other in others if other.intent != one.intent])
    elif kind == "curt":
        better, worse = dice.pick(_GREETINGS[code]) + right, right
    return {
        "input": {"messages": [{"role": "user", "content": one.question}]},
        "preferred_output": [{"role": "assistant", "content": better}],
        "non_preferred_output": [{"role": "assistant", "content": worse}],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("preferences", "preferences_held_out"), pairs(asked.seed), strict=True):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (asked.output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
