"""Writes the sample export of the demo: sound dialogues from hand-written material, then counted dirt, from one seed.

python -m deploy.samples.generate --seed 7 --dialogues 2400 --output deploy/samples/service_dialogues.jsonl
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.samples import dirt
from deploy.samples.dialogues import Dialogue, Writer
from deploy.samples.dice import Dice
from deploy.samples.material import LANGUAGES, load

# How many of each fault 2,400 sound dialogues bring; other sizes in proportion.
RATES_PER_2400 = {
    "exact_duplicate": 96,
    "near_duplicate": 60,
    "label_conflict": 30,
    "empty_message": 30,
    "missing_messages": 18,
    "missing_answer": 18,
    "mojibake": 36,
    "replacement_character": 24,
    "invalid_utf8": 12,
    "not_json": 15,
    "overlong": 10,
    "phone": 60,
    "email": 48,
    "id_card": 24,
    "bank_card": 24,
    "html": 40,
}
MARK = "<!-- counts: written by the generator -->"
Spoiler = Callable[[bytes, Dice], bytes]


@dataclass(frozen=True)
class Record:
    """A line before it has an id: its fields, and what happens to its bytes at the very end."""

    fields: dict[str, Any]
    spoil: Spoiler | None = None


def generate(seed: int, dialogues: int) -> tuple[list[bytes], dict[str, int]]:
    """All lines of the export without line ends, shuffled, and how many of each kind are in them.

    `dialogues` (at least 100) sound ones are written, half in each language; personal data and HTML go into
    some of these; every other fault is a line of its own beside them. Same arguments, same bytes, anywhere.
    """
    if dialogues < 100:
        raise ValueError(f"dialogues is {dialogues}; at least 100 are needed to plant each fault")
    dice = Dice(seed)
    materials = [load(code) for code in LANGUAGES]
    writers = [Writer(material, dice) for material in materials]
    intents = tuple(intent.name for intent in materials[0].intents)
    counts = {kind: max(1, round(rate * dialogues / 2400)) for kind, rate in RATES_PER_2400.items()}

    sound = [writers[number % 2].write() for number in range(dialogues)]
    plain = list(range(dialogues))
    dice.shuffle(plain)
    _dirty_in_place(sound, plain, counts, dice)
    records = [Record(_fields(dialogue)) for dialogue in sound]
    records += _copies(sound, plain, counts, intents, dice)
    records += _broken(writers, counts, dice)
    dice.shuffle(records)

    lines = [_line(number, record, dice) for number, record in enumerate(records, 1)]
    return lines, {"lines": len(lines), "sound_dialogues": dialogues, **counts}


def _dirty_in_place(sound: list[Dialogue], plain: list[int], counts: dict[str, int], dice: Dice) -> None:
    """Put personal data and HTML into sound dialogues, one fault each; those leave `plain`."""
    for kind in dirt.PERSONAL_KINDS:
        fitting = [at for at in plain if dirt.speaks(kind, sound[at].language)][: counts[kind]]
        for at in fitting:
            sound[at] = dirt.with_personal_data(sound[at], kind, dice)
            plain.remove(at)
    for _ in range(counts["html"]):
        at = plain.pop()
        sound[at] = dirt.with_html(sound[at], dice)


def _copies(
    sound: list[Dialogue], plain: list[int], counts: dict[str, int], intents: tuple[str, ...], dice: Dice
) -> list[Record]:
    """Second forms of sound dialogues; no dialogue is copied twice."""
    exact = [sound[plain.pop()] for _ in range(counts["exact_duplicate"])]
    near = [dirt.near_duplicate(sound[plain.pop()], dice) for _ in range(counts["near_duplicate"])]
    other = [dirt.relabelled(sound[plain.pop()], intents, dice) for _ in range(counts["label_conflict"])]
    return [Record(_fields(dialogue)) for dialogue in exact + near + other]


def _broken(writers: Sequence[Writer], counts: dict[str, int], dice: Dice) -> list[Record]:
    """Lines that no trainer can use, from dialogues that occur nowhere else."""

    def fresh(kind: str) -> list[Dialogue]:
        return [writers[number % 2].write() for number in range(counts[kind])]

    records = [Record(_fields(dirt.with_empty_message(each, dice))) for each in fresh("empty_message")]
    for each in fresh("missing_messages"):
        fields = _fields(each)
        if dice.chance(0.5):
            del fields["messages"]
        else:
            fields["messages"] = dice.pick((None, []))
        records.append(Record(fields))
    records += [Record(_fields(dirt.without_answer(each))) for each in fresh("missing_answer")]
    records += [Record(_fields(dirt.mojibake(each, dice))) for each in fresh("mojibake")]
    records += [
        Record(_fields(dirt.with_replacement_characters(each, dice)))
        for each in fresh("replacement_character")
    ]
    records += [Record(_fields(dirt.overlong(each, dice))) for each in fresh("overlong")]
    records += [Record(_fields(each), dirt.invalid_utf8) for each in fresh("invalid_utf8")]
    return records + [Record(_fields(each), dirt.truncated) for each in fresh("not_json")]


def _fields(dialogue: Dialogue) -> dict[str, Any]:
    return {
        "channel": dialogue.channel,
        "language": dialogue.language,
        "intent": dialogue.intent,
        "messages": [{"role": role, "content": text} for role, text in dialogue.messages],
        "created_at": dialogue.created_at,
    }


def _line(number: int, record: Record, dice: Dice) -> bytes:
    fields = {"id": f"d{number:05}", **record.fields}
    line = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return record.spoil(line, dice) if record.spoil else line


def table(planted: dict[str, int]) -> str:
    """The counts as a Markdown table."""
    rows = [f"| {kind} | {count} |" for kind, count in planted.items()]
    return "\n".join(["| what | count |", "|---|---:|", *rows, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file; where a README with the mark lies beside it, refresh the counts behind the mark."""
    parser = argparse.ArgumentParser(description="Write the demo's sample export.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--dialogues", type=int, default=2400)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    lines, planted = generate(options.seed, options.dialogues)
    options.output.write_bytes(b"".join(line + b"\n" for line in lines))
    readme = options.output.parent / "README.md"
    if readme.exists() and MARK in (text := readme.read_text(encoding="utf-8")):
        readme.write_text(f"{text.split(MARK)[0]}{MARK}\n\n{table(planted)}", encoding="utf-8")
    sys.stdout.write(table(planted))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
