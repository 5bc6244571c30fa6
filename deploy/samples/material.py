"""Reads and checks the hand-written phrasings, slots and answers. It knows nothing of dialogues, seeds or dirt."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "material"
LANGUAGES = ("zh", "en")
GENERAL = "*"
_SLOT = re.compile(r"\{(\w+)\}")


class MaterialError(ValueError):
    """The hand-written material contradicts itself; the message names language, intent and phrasing."""


@dataclass(frozen=True)
class Intent:
    """What a customer wants: phrasings, and one answer per class of the slot `by` (or one under "*")."""

    name: str
    by: str | None
    answers: Mapping[str, str]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Language:
    """All material of one language. `slots` maps slot -> class -> values."""

    code: str
    slots: Mapping[str, Mapping[str, tuple[str, ...]]]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    contexts: tuple[str, ...]
    bridges: tuple[str, ...]
    typos: tuple[tuple[str, str], ...]
    intents: tuple[Intent, ...]


def slots_of(template: str) -> list[str]:
    """Names of the slots in a template, in order."""
    return _SLOT.findall(template)


def load(code: str) -> Language:
    """Read `material/<code>.json`; raises MaterialError where an answer could not be told from its question."""
    raw = json.loads((FOLDER / f"{code}.json").read_text(encoding="utf-8"))
    language = Language(
        code=raw["language"],
        slots={
            slot: {kind: tuple(values) for kind, values in kinds.items()}
            for slot, kinds in raw["slots"].items()
        },
        openers=tuple(raw["openers"]),
        closers=tuple(raw["closers"]),
        contexts=tuple(raw["contexts"]),
        bridges=tuple(raw["bridges"]),
        typos=tuple((right, wrong) for right, wrong in raw["typos"]),
        intents=tuple(_intent(each) for each in raw["intents"]),
    )
    for intent in language.intents:
        _check(language, intent)
    return language


def _intent(raw: dict[str, Any]) -> Intent:
    return Intent(raw["name"], raw.get("by"), dict(raw["answers"]), tuple(raw["questions"]))


def _check(language: Language, intent: Intent) -> None:
    place = f"{language.code}/{intent.name}"
    kinds = set(language.slots[intent.by]) if intent.by else {GENERAL}
    if set(intent.answers) != kinds:
        raise MaterialError(f"{place}: answers for {sorted(intent.answers)}, expected {sorted(kinds)}")
    needed = {slot for answer in intent.answers.values() for slot in slots_of(answer)}
    needed |= {intent.by} if intent.by else set()
    for question in intent.questions:
        named = slots_of(question)
        if not needed <= set(named):
            raise MaterialError(f"{place}: {question!r} lacks {sorted(needed - set(named))}")
        if any(slot != "order" and slot not in language.slots for slot in named):
            raise MaterialError(f"{place}: {question!r} names an unknown slot")
    if len(set(intent.questions)) != len(intent.questions):
        raise MaterialError(f"{place}: a phrasing is there twice")
