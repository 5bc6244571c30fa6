"""What a row for a head must have, and what rows together must be, so that anything can be learned. Pure.

Gateway and trainer read rows with the same functions: the gateway what it can look into, the trainer all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from shared.contracts.heads import MAX_LABELS, HeadKind

Target = str | tuple[str, ...] | float | None


class BadRow(ValueError):
    """What is wrong with a row, in words that follow its line's number."""


def row_of(record: Mapping[str, Any], head: HeadKind) -> tuple[tuple[str, ...], Target]:
    """(texts, target): a text; a query and its document; a query with a better and a worse document. Raises BadRow."""
    if head == "rank_pairwise":
        names = ("query", "positive", "negative")
        texts = tuple(_required(record, name, head) for name in names)
        if texts[1] == texts[2]:
            raise BadRow("`positive` and `negative` are the same")
        return texts, None
    if head == "rank_pointwise":
        texts = tuple(_required(record, name, head) for name in ("query", "document"))
        return texts, _score(record)
    text = (_text(record),)
    if head == "regression":
        return text, _score(record)
    if head == "multi_label":
        return text, _labels(record)
    label = record.get("label")
    if not isinstance(label, str) or not is_text(label):
        raise BadRow(f"`label` is {label!r}; it must be a text that is not empty")
    return text, label


def labels_in(target: Target) -> tuple[str, ...]:
    """The labels of a row."""
    if isinstance(target, str):
        return (target,)
    return target if isinstance(target, tuple) else ()


def why_no_classes(labels: Collection[str]) -> str | None:
    """What is wrong with all labels of the training rows together."""
    if len(labels) < 2:
        only = f"one label only, {next(iter(labels))!r}" if labels else "no label"
        return f"the training split has {only}; a classifier needs two or more"
    if len(labels) > MAX_LABELS:
        return (
            f"the training split has {len(labels)} labels, at most {MAX_LABELS} are trained; a column of texts that "
            "hardly repeat is no label"
        )
    return None


def why_unknown(target: Target, known: Collection[str]) -> str | None:
    """What is wrong with a held-out row's labels."""
    for label in labels_in(target):
        if label not in known:
            return f"the label {label!r} is in no training row; add rows of it, or leave it out"
    return None


def is_text(value: Any) -> bool:
    """Whether it is text and not empty. A lone surrogate (JSON's "\\ud800") is a str in Python but no Unicode text."""
    return (
        isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)
    )


def _required(record: Mapping[str, Any], name: str, head: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not is_text(value):
        told = f"`{name}` is {value!r}; a {head} head needs a text there that is not empty"
        more = (
            " (a dataset version has no such column; give a JSONL file)" if "_source_line" in record else ""
        )
        raise BadRow(told + more)
    return value


def _text(record: Mapping[str, Any]) -> str:
    text, messages = record.get("text"), record.get("messages")
    if isinstance(messages, list):
        turns = [m.get("content") for m in messages if isinstance(m, dict) and m.get("role") == "user"]
        text = "\n".join(turn for turn in turns if isinstance(turn, str))
    if not isinstance(text, str) or not is_text(text):
        raise BadRow("neither a `text` that is not empty nor `messages` with a user's turn")
    return text


def _score(record: Mapping[str, Any]) -> float:
    """A number; a governed version has it as the text of its `label`."""
    value = record.get("score", record.get("label"))
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise BadRow(f"`score` is {value!r}; it must be a number")
    return number


def _labels(record: Mapping[str, Any]) -> tuple[str, ...]:
    """A list, which may be empty; a governed version has them as its `label`, with commas between."""
    value = record.get("labels")
    if value is None and isinstance(record.get("label"), str):
        value = [part.strip() for part in record["label"].split(",")]
    if not isinstance(value, list) or not all(isinstance(one, str) and is_text(one) for one in value):
        raise BadRow(f"`labels` is {value!r}; it must be a list of texts that are not empty")
    return tuple(sorted(set(value)))
