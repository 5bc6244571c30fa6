"""Labelled questions in which no phrasing is on both sides: what was held out was never seen in other words either.

`python -m deploy.samples.intents --language en --output FOLDER` writes `train.jsonl` and `held_out.jsonl`, rows of
`text` and `label`, from the hand-written material of the dialogues. Every fourth phrasing of an intent is held out,
with its slots, greetings and typos drawn anew: a score tells of wordings that were never trained.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from deploy.samples.dialogues import Dialogue, Writer
from deploy.samples.dice import Dice
from deploy.samples.material import LANGUAGES, Language, load

HELD_OUT_EVERY = 4
TRAINING, HELD_OUT = 1040, 520


def apart(
    code: str, seed: int, *, training: int = TRAINING, held_out: int = HELD_OUT
) -> tuple[list[Dialogue], list[Dialogue]]:
    """Dialogues (training, held out), each evenly over all 26 intents of the language. Same arguments, same dialogues,
    anywhere."""
    language = load(code)
    learned, held = (Writer(_with(language, held=held), Dice(seed + held)) for held in (False, True))
    return [learned.write() for _ in range(training)], [held.write() for _ in range(held_out)]


def labelled(
    code: str, seed: int, *, training: int = TRAINING, held_out: int = HELD_OUT
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The same as rows of a question and its intent."""
    learned, held = apart(code, seed, training=training, held_out=held_out)
    return _rows(learned), _rows(held)


def _with(language: Language, *, held: bool) -> Language:
    intents = (
        replace(
            intent,
            questions=tuple(
                question
                for place, question in enumerate(intent.questions, 1)
                if (place % HELD_OUT_EVERY == 0) == held
            ),
        )
        for intent in language.intents
    )
    return replace(language, intents=tuple(intents))


def _rows(dialogues: list[Dialogue]) -> list[dict[str, str]]:
    return [{"text": dialogue.question, "label": dialogue.intent} for dialogue in dialogues]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--language", choices=LANGUAGES, default="zh")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    training, held_out = labelled(asked.language, asked.seed)
    for name, rows in (("train", training), ("held_out", held_out)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (asked.output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
