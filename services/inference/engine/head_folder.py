"""Reads what a folder says of its head: our own layout, or a transformers sequence classification. Knows no torch.

Ours is a trunk (a transformers folder, or an LSTM) with `head.json` beside it and the last layer in
`head.safetensors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.inference.engine.attention import UnsupportedModel
from services.inference.engine.loading import BrokenModel, read_json
from services.inference.engine.vectors import Pooling

HEAD_FILE = "head.json"
FORMAT = 1
LABELLED = ("single_label", "multi_label")
KINDS = (*LABELLED, "regression", "rank_pairwise", "rank_pointwise")
MOST_LABELS = 10_000
_PROBLEMS = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


@dataclass(frozen=True)
class HeadFolder:
    """`own` is our layout. `labels` are empty for a head of one number; `longest` tokens are what it was made for."""

    own: bool
    head: str
    labels: tuple[str, ...]
    pooling: Pooling = Pooling.MEAN
    longest: int | None = None
    prompt: str = ""
    lower: bool = False

    @property
    def kind(self) -> str:
        """What the model is registered as."""
        return "ranker" if self.head.startswith("rank") else "classifier"

    @property
    def outputs(self) -> int:
        return len(self.labels) or 1


def is_head(folder: Path) -> bool:
    if (folder / HEAD_FILE).exists():
        return True
    named = [str(name) for name in read_json(folder / "config.json").get("architectures") or ()]
    return bool(named) and all(name.endswith("ForSequenceClassification") for name in named)


def read_head_folder(folder: Path) -> HeadFolder:
    """Raises BrokenModel or UnsupportedModel with what is at fault."""
    options = read_json(folder / HEAD_FILE)
    if not options:
        return _of_transformers(folder)
    if options.get("format") != FORMAT:
        raise UnsupportedModel(
            f"{HEAD_FILE} has the format {options.get('format')!r}; known is {FORMAT}", param="path"
        )
    head, pooling = options.get("head"), options.get("pooling")
    if head not in KINDS or pooling not in set(Pooling):
        raise BrokenModel(f"{HEAD_FILE} has head={head!r} and pooling={pooling!r}", param="path")
    longest = options.get("max_length")
    if type(longest) is not int or longest < 1:
        raise BrokenModel(f"{HEAD_FILE} has max_length={longest!r}; it must be 1 or more", param="path")
    labels = _labels(options.get("labels"), head in LABELLED)
    prompt, lower = str(options.get("prompt") or ""), bool(options.get("lower"))
    return HeadFolder(True, str(head), labels, Pooling(pooling), longest, prompt, lower)


def _of_transformers(folder: Path) -> HeadFolder:
    config = read_json(folder / "config.json")
    named = config.get("id2label") or {}
    count = len(named) if isinstance(named, dict) and named else config.get("num_labels", 2)
    problem = config.get("problem_type")
    if problem is not None and problem not in _PROBLEMS:
        raise UnsupportedModel(
            f"config.json has problem_type={problem!r}; known are {', '.join(_PROBLEMS)}", param="path"
        )
    if count == 1:
        # A cross-encoder, which the library would otherwise take for a regression.
        return HeadFolder(False, "regression" if problem == "regression" else "rank_pointwise", ())
    if problem == "regression":
        raise UnsupportedModel(f"a regression of {count} numbers is not served; one is", param="path")
    head = _PROBLEMS[problem] if problem else "single_label"
    try:
        ordered = [named[str(index)] for index in range(count)] if named else None
    except (KeyError, TypeError) as exc:
        raise BrokenModel(f"config.json's id2label lacks {exc}", param="path") from exc
    return HeadFolder(False, head, _labels(ordered or [f"LABEL_{i}" for i in range(count)], True))


def _labels(given: Any, wanted: bool) -> tuple[str, ...]:
    if not wanted:
        return ()
    if not isinstance(given, list) or not 2 <= len(given) <= MOST_LABELS:
        raise BrokenModel(f"a head of labels has 2 to {MOST_LABELS} of them", param="path")
    if not all(isinstance(label, str) and label for label in given) or len(set(given)) < len(given):
        raise BrokenModel("labels must be texts that differ from each other", param="path")
    return tuple(given)
