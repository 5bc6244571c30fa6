"""The decoding settings that a model's `generation_config.json` pins: read, checked and written. Pure, with no library.

Names and meaning after https://huggingface.co/docs/transformers/main_classes/text_generation; `max_tokens` is called
`max_new_tokens` there. Stop tokens, which the file has too, are not settings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from shared.errors import InvalidInput

FILE: Final = "generation_config.json"
Settings = dict[str, float | int]
# From, to, and whether only whole numbers have a meaning. What is 0 and may not be stands in `_ABOVE`.
_RANGES: Mapping[str, tuple[float, float, bool]] = {
    "temperature": (0, 2, False),
    "top_p": (0, 1, False),
    "top_k": (0, 100_000, True),
    "min_p": (0, 1, False),
    "repetition_penalty": (0.01, 100, False),
    "max_tokens": (1, 131_072, True),
}
NAMES: Final = tuple(_RANGES)
_ABOVE = frozenset({"top_p"})
# How a token is drawn, which has no meaning where the likeliest one is taken.
OF_DRAWING: Final = ("top_p", "top_k", "min_p")
_THEIRS = {"max_tokens": "max_new_tokens"}
_NOTHING = dict.fromkeys(("do_sample", *(_THEIRS.get(name, name) for name in NAMES)))
# Would change answers elsewhere and is not applied here, with the values that do nothing.
_UNAPPLIED: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "no_repeat_ngram_size": (0,),
    "typical_p": (1,),
    "min_new_tokens": (0,),
    "min_length": (0,),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "bad_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "sequence_bias": ({},),
    "penalty_alpha": (0,),
}


def pinned(config: Mapping[str, Any]) -> Settings:
    """What a file pins, by our names: null and what is not there pin nothing, `do_sample: false` is temperature 0.

    Raises InvalidInput with the name of the first setting that has no meaning.
    """
    draws = config.get("do_sample")
    if draws is not None and not isinstance(draws, bool):
        raise _wrong("do_sample", draws, "it is true or false")
    found: Settings = {}
    for name in NAMES:
        theirs = _THEIRS.get(name, name)
        if config.get(theirs) is not None:
            found[name] = _checked(name, theirs, config[theirs])
    if draws is False or found.get("temperature") == 0:
        found = {name: value for name, value in found.items() if name not in OF_DRAWING} | {
            "temperature": 0.0
        }
    return found


def read_pinned(content: bytes) -> Settings:
    """The same of the file's bytes. Raises InvalidInput."""
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"{FILE} is no JSON: {exc}", param=FILE) from exc
    if not isinstance(config, dict):
        raise InvalidInput(f"{FILE} must hold a JSON object, got {type(config).__name__}", param=FILE)
    return pinned(config)


def written(settings: Mapping[str, float | int]) -> dict[str, Any]:
    """Settings as the file has them, None for each that is not pinned; `pinned` reads the same out of it."""
    found: dict[str, Any] = {_THEIRS.get(name, name): value for name, value in settings.items()}
    draws = any(name in settings for name in ("temperature", *OF_DRAWING))
    if settings.get("temperature") == 0:
        draws = False
        found |= {"do_sample": False, "temperature": None}
    return {**_NOTHING, **({"do_sample": True} if draws else {}), **found}


def over(own: Settings, wanted: Settings) -> Settings:
    """`wanted` put over a model's `own` settings. Who says how tokens are drawn wants them drawn."""
    draws = any(name in wanted for name in OF_DRAWING)
    kept = {
        name: value for name, value in own.items() if not (draws and name == "temperature" and value == 0)
    }
    found = {**kept, **wanted}
    return {n: v for n, v in found.items() if found.get("temperature") != 0 or n not in OF_DRAWING}


def shown_settings(settings: Mapping[str, float | int]) -> str | None:
    """In one line, `temperature=0.7, top_p=0.8`; None where there are none."""
    return ", ".join(f"{name}={value:g}" for name, value in settings.items()) or None


def unapplied(config: Mapping[str, Any]) -> list[str]:
    """Names of settings that would change answers elsewhere and do not here."""
    return [
        name
        for name, nothing in _UNAPPLIED.items()
        if config.get(name) is not None and config[name] not in nothing
    ]


def _checked(name: str, theirs: str, value: Any) -> float | int:
    low, high, whole = _RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise _wrong(theirs, value, f"it is a {'whole ' if whole else ''}number")
    if name == "top_k" and value == -1:
        # As vLLM writes that all tokens are drawn from.
        return 0
    if not (math.isfinite(value) and low <= value <= high) or (name in _ABOVE and value == low):
        raise _wrong(theirs, value, f"it is {'more than' if name in _ABOVE else 'from'} {low} to {high}")
    return value if whole else float(value)


def _wrong(name: str, value: Any, right: str) -> InvalidInput:
    shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
    return InvalidInput(f"{FILE} has {name}={shown}; {right}", param=name)
