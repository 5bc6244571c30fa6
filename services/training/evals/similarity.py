"""How near a text is to its reference, 0 to 1, one number a pair; Chinese is compared character by character. Pure.

BLEU: Papineni et al. 2002 by sacrebleu, smoothed exponentially. GLEU: Wu et al. 2016. METEOR: Lavie and Agarwal 2007
by nltk, with stems and without WordNet's synonyms. ROUGE: Lin 2004, as F1. chrF: Popović 2015 by sacrebleu. Fuzzy:
rapidfuzz's normalised Indel similarity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq
from sacrebleu.metrics import BLEU, CHRF

from services.training.metrics import normalise, tokens

# METEOR's alignment is quadratic: what a pair may cost.
MAX_TOKENS = 2_000


def similarity(metric: str, text: str, reference: str) -> float:
    """By any metric but cosine, which needs vectors. Two empty texts are alike, one is like nothing."""
    if not text.strip() or not reference.strip():
        return float(not text.strip() and not reference.strip())
    match metric:
        case "fuzzy_match":
            return float(fuzz.ratio(normalise(text), normalise(reference))) / 100
        case "bleu":
            return min(1.0, float(_bleu().sentence_score(spaced(text), [spaced(reference)]).score) / 100)
        case "chrf":
            return float(_chrf().sentence_score(text, [reference]).score) / 100
        case "gleu":
            return gleu(tokens(text), tokens(reference))
        case "meteor":
            return meteor(tokens(text), tokens(reference))
        case "rouge_l":
            return rouge_l(tokens(text), tokens(reference))
    return rouge_n(tokens(text), tokens(reference), int(metric.removeprefix("rouge_")))


def spaced(text: str) -> str:
    """Tokens with blanks between: every metric cuts Chinese and English alike, and knows no language."""
    return " ".join(tokens(text))


def gleu(got: Sequence[str], want: Sequence[str], longest: int = 4) -> float:
    """The smaller of precision and recall over all n-grams of 1 to 4."""
    common = total_got = total_want = 0
    for n in range(1, longest + 1):
        mine, theirs = ngrams(got, n), ngrams(want, n)
        common += sum((mine & theirs).values())
        total_got += sum(mine.values())
        total_want += sum(theirs.values())
    most = max(total_got, total_want)
    return common / most if most else float(list(got) == list(want))


def rouge_n(got: Sequence[str], want: Sequence[str], n: int) -> float:
    """F1 of n-grams; texts shorter than n are compared whole."""
    mine, theirs = ngrams(got, n), ngrams(want, n)
    total = sum(mine.values()) + sum(theirs.values())
    if not mine or not theirs:
        return float(bool(got) and list(got) == list(want))
    return 2 * sum((mine & theirs).values()) / total


def rouge_l(got: Sequence[str], want: Sequence[str]) -> float:
    """F1 of the longest common subsequence."""
    total = len(got) + len(want)
    return 2 * LCSseq.similarity(got, want) / total if total else 1.0


def meteor(got: Sequence[str], want: Sequence[str]) -> float:
    """Of the first MAX_TOKENS tokens of each."""
    from nltk.translate.meteor_score import single_meteor_score

    if not got or not want:
        return float(list(got) == list(want))
    return float(single_meteor_score(want[:MAX_TOKENS], got[:MAX_TOKENS], wordnet=_NoSynonyms()))


class _NoSynonyms:
    """In the place of WordNet, whose words are English and which has to be fetched first."""

    def synsets(self, _: str) -> list[Any]:
        return []


def ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


@lru_cache(maxsize=1)
def _bleu() -> Any:
    # The texts are cut already; orders that a short text has not do not count.
    return BLEU(tokenize="none", effective_order=True)


@lru_cache(maxsize=1)
def _chrf() -> Any:
    return CHRF()
