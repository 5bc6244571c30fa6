"""The governance workload: made-up documents, half Chinese, with a known number of planted faults and duplicates.

`write_documents` writes one JSONL file and returns what was planted. The same seed and size give the same bytes.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

# As many of each as the workload that this is rebuilt from had, per row.
EXACT_SHARE = 0.10262
NEAR_SHARE = 0.10053
# Rows with something for the other steps to find.
PII_SHARE = 0.05
MOJIBAKE_SHARE = 0.01
MARKUP_SHARE = 0.03
BLANK_SHARE = 0.002
SHORT_SHARE = 0.003
# A near duplicate has so many of its words replaced: by construction most of its five-character shingles stay.
NEAR_EDITS = 0.01
_ONSETS = ("b", "c", "d", "f", "g", "h", "l", "m", "n", "p", "r", "s", "t", "v", "st", "tr", "pl", "ch")
_NUCLEI = ("a", "e", "i", "o", "u", "ai", "ea", "io", "ou")
_CODAS = ("", "", "n", "r", "s", "t", "l", "nd", "st", "ng")
_COMMON = (
    "the of and to in is for that with on as are by this it not be from at or have an they which one you were all her "
    "she there would their we him been has when who will no more if out so up said what its about than into them can "
    "only other time new some could these two may first then do any like my now over such our man me even most made "
    "after also did many off before must well back through years where much your way down should because long each "
    "just state those people too mister how little good world make very year still see own work men day get here old"
)
_PARTICLES = ("的", "了", "和", "是", "在", "有", "不", "我们", "可以", "这个", "一个", "因为", "所以")


@dataclass(frozen=True)
class Planted:
    """Numbers (0-based) of the rows that repeat an earlier one, to that row; and how many rows and bytes there are."""

    rows: int
    size: int
    exact: dict[int, int] = field(default_factory=dict)
    near: dict[int, int] = field(default_factory=dict)


def write_documents(path: Path, rows: int, seed: int = 20_26) -> Planted:
    """Writes `rows` documents of about 900 bytes: lines of `id`, `text`, `lang` and `source`."""
    dice = random.Random(seed)
    words = _english_words(dice), _chinese_words(dice)
    exact: dict[int, int] = {}
    near: dict[int, int] = {}
    # Only the last documents are repeated, so that memory does not grow with the number of rows.
    recent: list[tuple[int, str, list[str]]] = []
    with path.open("w", encoding="utf-8") as out:
        for number in range(rows):
            roll = dice.random()
            if recent and roll < EXACT_SHARE:
                origin, lang, tokens = dice.choice(recent)
                text = _joined(lang, tokens)
                exact[number] = origin
            elif recent and roll < EXACT_SHARE + NEAR_SHARE:
                origin, lang, tokens = dice.choice(recent)
                text = _joined(lang, _edited(dice, tokens, words[lang == "zh"]))
                near[number] = origin
            else:
                lang = dice.choice(("en", "zh"))
                tokens = _tokens(dice, words[lang == "zh"])
                text = _faulty(dice, _joined(lang, tokens), lang)
                if text == _joined(lang, tokens):
                    recent.append((number, lang, tokens))
                    if len(recent) > 20_000:
                        recent[dice.randrange(len(recent))] = recent[-1]
                        recent.pop()
            row = {"id": f"doc-{number:08d}", "text": text, "lang": lang, "source": f"system-{number % 7}"}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return Planted(rows, path.stat().st_size, exact, near)


def _tokens(dice: random.Random, words: list[str]) -> list[str]:
    # A cubed uniform number picks frequent words often, as in real text.
    return [words[int(len(words) * dice.random() ** 3)] for _ in range(dice.randint(70, 160))]


def _edited(dice: random.Random, tokens: list[str], words: list[str]) -> list[str]:
    edited = list(tokens)
    for _ in range(max(1, round(len(tokens) * NEAR_EDITS))):
        edited[dice.randrange(len(edited))] = dice.choice(words)
    return edited


def _joined(lang: str, tokens: list[str]) -> str:
    pieces = [tokens[at : at + 14] for at in range(0, len(tokens), 14)]
    if lang == "zh":
        return "。".join("，".join(("".join(piece[:7]), "".join(piece[7:]))) for piece in pieces) + "。"
    return " ".join(" ".join(piece).capitalize() + "." for piece in pieces)


def _faulty(dice: random.Random, text: str, lang: str) -> str:
    """Now and then what a governed dataset may not hold."""
    roll = dice.random()
    if roll < PII_SHARE:
        number = f"1{dice.choice('3578')}{dice.randrange(10**9):09d}"
        return (
            f"{text}联系电话{number}谢谢"
            if lang == "zh"
            else f"{text} Write to user{number[5:]}@example.com."
        )
    roll -= PII_SHARE
    if roll < MOJIBAKE_SHARE:
        return (
            text[:40].encode().decode("latin-1") + text[40:]
            if lang == "zh"
            else text.replace("the", "theâ€™s", 1)
        )
    roll -= MOJIBAKE_SHARE
    if roll < MARKUP_SHARE:
        return f"<p>{text[:60]}</p><br/>&nbsp;{text[60:]}"
    roll -= MARKUP_SHARE
    if roll < BLANK_SHARE:
        return "  \n "
    return text[:3] if roll - BLANK_SHARE < SHORT_SHARE else text


def _english_words(dice: random.Random) -> list[str]:
    made = {
        "".join(dice.choice(part) for _ in range(dice.randint(1, 3)) for part in (_ONSETS, _NUCLEI, _CODAS))
        for _ in range(9_000)
    }
    return [*_COMMON.split(), *dice.sample(sorted(made), 6_000)]


def _chinese_words(dice: random.Random) -> list[str]:
    # The characters of GB 2312 level 1, which are those in common use.
    characters = [
        bytes((high, low)).decode("gb2312") for high in range(0xB0, 0xD7) for low in range(0xA1, 0xFF)
    ]
    made = {"".join(dice.choice(characters) for _ in range(dice.randint(1, 3))) for _ in range(9_000)}
    return [*_PARTICLES, *dice.sample(sorted(made), 6_000)]
