"""Preference pairs in Chinese and English from the hand-written dialogues, with no phrasing on both sides.

`python -m deploy.samples.preferences --output deploy/samples` writes `preferences.jsonl` and
`preferences_held_out.jsonl`, a pair a line as OpenAI has them. The better answer is the right one, in a friendly way;
the worse one belongs to another question, pushes a product, or is curt.
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
# What stands before or behind the right answer is new to a model of these dialogues on both sides: so it begins
# without a preference, and has to learn one.
_OPENINGS = {
    "zh": (("您好，感谢咨询！", "您好，很高兴为您服务！"), ("喂，", "又来，")),
    "en": (
        ("Hello, and thank you for asking! ", "Good day, and thanks for writing! "),
        ("Ugh, ", "So what? "),
    ),
}
_ENDINGS = {
    "zh": (
        ("祝您愉快！", "欢迎再来！", "请随时找我们。"),
        ("马上办金卡，八折，过期不候！", "今天必须下单我们的新套餐！", "点这里买保险，别犹豫！"),
    ),
    "en": (
        (" Have a good day!", " Come back any time!", " We are glad to help."),
        (
            " Apply for our gold card right now!",
            " You must buy our new plan today!",
            " Click here for insurance, now!",
        ),
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
    if kind == "other_question":
        better = right
        worse = dice.pick([other.messages[1][1] for other in others if other.intent != one.intent])
    elif kind == "pushy":
        better, worse = (right + dice.pick(endings) for endings in _ENDINGS[code])
    else:
        better, worse = (dice.pick(openings) + right for openings in _OPENINGS[code])
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
