"""Reads how a folder makes a text into a vector: the layout of sentence-transformers (https://sbert.net), without it.

`modules.json` names the steps: a transformer, a pooling and, if any, a normalizing to length 1. A folder without it
is a transformer whose token vectors are averaged and brought to length 1. Knows no torch; runs nothing of the folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.inference.engine.attention import UnsupportedModel
from services.inference.engine.loading import BrokenModel, UnsafeModel, read_json
from services.inference.engine.vectors import Pooling

STEPS = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
_FLAG = "pooling_mode_"
_FLAGS = {"mean_tokens": Pooling.MEAN, "cls_token": Pooling.CLS, "lasttoken": Pooling.LAST}


@dataclass(frozen=True)
class SentenceFolder:
    """`transformer` holds weights and tokenizer; `longest` is how many tokens it was made for, None where it is not
    told. `prompt` stands before every text.
    """

    transformer: Path
    pooling: Pooling = Pooling.MEAN
    normalize: bool = True
    longest: int | None = None
    lower: bool = False
    prompt: str = ""


def read_sentence_folder(folder: Path) -> SentenceFolder:
    """Raises BrokenModel, UnsafeModel (a step of its own code) or UnsupportedModel, with the file at fault."""
    file = folder / "modules.json"
    if not file.exists():
        return SentenceFolder(folder)
    steps = [_step(folder, step) for step in _modules(file)]
    kinds = [kind for kind, _ in steps]
    if kinds not in STEPS:
        raise UnsupportedModel(
            f"modules.json of {str(folder)!r} has the steps {', '.join(kinds)}; served are {', '.join(STEPS[1])}, "
            "the last of which may be missing",
            param="path",
        )
    transformer, pooling = steps[0][1], steps[1][1]
    options = _options(transformer)
    longest, lower = options.get("max_seq_length"), options.get("do_lower_case", False)
    if longest is not None and (type(longest) is not int or longest < 1):
        raise BrokenModel(
            f"max_seq_length of {str(transformer)!r} must be 1 or more, got {longest!r}", param="path"
        )
    prompt = _prompt(folder)
    return SentenceFolder(
        transformer, _pooling(pooling, prompt), len(steps) == 3, longest, bool(lower), prompt
    )


def _modules(file: Path) -> list[dict[str, Any]]:
    try:
        steps = json.loads(file.read_text(encoding="utf-8"))
        return sorted(steps, key=lambda step: int(step["idx"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as exc:
        raise BrokenModel(f"{file} is no list of steps with an idx each: {exc!r}", param="path") from exc


def _step(folder: Path, step: dict[str, Any]) -> tuple[str, Path]:
    """(the last part of its type, its folder)."""
    kind, place = str(step.get("type", "")), str(step.get("path", ""))
    if not kind.startswith("sentence_transformers."):
        raise UnsafeModel(
            f"modules.json of {str(folder)!r} has a step of the type {kind!r}: it wants to run code of its own, "
            "which is never done",
            param="path",
        )
    if Path(place).is_absolute() or ".." in Path(place).parts:
        raise UnsafeModel(
            f"modules.json of {str(folder)!r} has a step at {place!r}, outside of it", param="path"
        )
    return kind.rpartition(".")[2], folder / place


def _options(transformer: Path) -> dict[str, Any]:
    """`sentence_bert_config.json`, which is named after the architecture in older folders."""
    for file in sorted(transformer.glob("sentence_*_config.json")):
        return read_json(file)
    return {}


def _pooling(folder: Path, prompt: str) -> Pooling:
    options = read_json(folder / "config.json")
    named = options.get("pooling_mode")
    if named is not None:
        asked = [str(mode) for mode in (named if isinstance(named, list) else [named])]
    else:
        asked = [
            name.removeprefix(_FLAG) for name, on in options.items() if name.startswith(_FLAG) and on is True
        ]
    known = [_FLAGS.get(mode) or (Pooling(mode) if mode in set(Pooling) else None) for mode in asked]
    if len(known) != 1 or known[0] is None:
        raise UnsupportedModel(
            f"the pooling of {str(folder)!r} is {' and '.join(asked) or 'not told'}; served is one of "
            f"{', '.join(Pooling)}",
            param="path",
        )
    if prompt and options.get("include_prompt") is False:
        raise UnsupportedModel(
            f"the pooling of {str(folder)!r} leaves out the prompt {prompt!r} that stands before every text; "
            "this is not served",
            param="path",
        )
    return known[0]


def _prompt(folder: Path) -> str:
    options = read_json(folder / "config_sentence_transformers.json")
    name, prompts = options.get("default_prompt_name"), options.get("prompts") or {}
    return str(prompts.get(name, "")) if name and isinstance(prompts, dict) else ""
