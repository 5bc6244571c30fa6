"""Preference pairs out of JSONL and governed versions, checked, and a part of them held out. Knows no tokenizer.

A row is as OpenAI has it (`input.messages`, `preferred_output`, `non_preferred_output`), as a labelling project exports
it (`prompt`, `chosen`, `rejected`), or a version's row made of the latter: what a recipe has no place for stands in its
`meta`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services.training.dataset import Message, Split, bad_line, is_version, messages_of, read_records
from shared.contracts.head_rows import is_text
from shared.contracts.preferences import shape_of_record, why_no_pair
from shared.errors import InvalidInput

# Fewer pairs than this are all trained on; of more, this share is held out where nothing else is.
FEWEST_HELD_OUT, HELD_OUT_SHARE = 20, 0.1


@dataclass(frozen=True)
class Pair:
    """A prompt, whose answers are none to learn from, and two answers to it that differ."""

    line: int
    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message

    @property
    def group(self) -> str:
        """What must not be on both sides of a split."""
        return "\n".join(" ".join(m.content.casefold().split()) for m in self.prompt)


def read_pairs(paths: Sequence[Path], split: Split, param: str) -> list[Pair]:
    """Raises InvalidInput `invalid_training_file` with the line at fault."""
    return [_pair(record, line, param) for line, record in read_records(paths, split, param, meta=True)]


def read_both(train: Sequence[Path], validation: Sequence[Path], seed: int) -> tuple[list[Pair], list[Pair]]:
    """(training, held out), checked; of a file without another one a share of the prompts is held out.

    Raises InvalidInput for an empty split, or one of a single pair over and over.
    """
    training = read_pairs(train, "train", "training_file")
    if not training:
        raise InvalidInput("the training split is empty", code="invalid_training_file", param="training_file")
    if len(training) > 1 and len({(p.prompt, p.chosen, p.rejected) for p in training}) == 1:
        raise InvalidInput(
            f"all {len(training)} pairs of the training split are the same one; there is nothing to tell apart",
            code="invalid_training_file",
            param="training_file",
        )
    if validation or any(is_version(path, "training_file") for path in train):
        held_out = read_pairs(validation, "validation", "validation_file")
        if not held_out and not any(is_version(path, "training_file") for path in train):
            raise InvalidInput(
                "the validation file has no pair; leave it out, or give one that has",
                code="invalid_training_file",
                param="validation_file",
            )
        return training, held_out
    return _hold_out(training, seed)


def _hold_out(pairs: list[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    groups = sorted({pair.group for pair in pairs})
    if len(groups) < FEWEST_HELD_OUT:
        return pairs, []
    order = np.random.default_rng(seed).permutation(len(groups))
    away = {groups[i] for i in order[: max(1, round(HELD_OUT_SHARE * len(groups)))]}
    return [p for p in pairs if p.group not in away], [p for p in pairs if p.group in away]


def _pair(record: dict[str, Any], line: int, param: str) -> Pair:
    record = _with_meta(record)
    shape = shape_of_record(record)
    if shape == "openai":
        asked = record["input"]
        if not isinstance(asked, dict):
            raise bad_line(line, f"`input` is a {type(asked).__name__}; it must be an object", param)
        if asked.get("tools"):
            raise bad_line(line, "`input.tools` is not supported", param)
        prompt = messages_of(asked.get("messages"), line, param, "input.messages")
        answers = [
            _answer(record[name], name, line, param) for name in ("preferred_output", "non_preferred_output")
        ]
    elif shape == "pair":
        prompt = _prompt(record, line, param)
        answers = [_answer(record[name], name, line, param) for name in ("chosen", "rejected")]
    elif shape == "version":
        turns = messages_of(record["messages"], line, param, "messages")
        if len(turns) < 2 or turns[-1].role != "assistant":
            raise bad_line(line, "`messages` of a pair must end with the better answer", param)
        prompt, answers = turns[:-1], [turns[-1], _answer(record["rejected"], "rejected", line, param)]
    else:
        raise bad_line(line, why_no_pair(record), param)
    if prompt[-1].role == "assistant":
        raise bad_line(
            line, "the prompt ends with an assistant message; it must end with what is answered", param
        )
    if answers[0].content == answers[1].content:
        raise bad_line(line, "the better and the worse answer are the same; a pair must differ", param)
    return Pair(
        line, tuple(Message(m.role, m.content, trained=False) for m in prompt), answers[0], answers[1]
    )


def _with_meta(record: dict[str, Any]) -> dict[str, Any]:
    """A version's row with the columns that its recipe had no place for; `text` is then the prompt."""
    if "meta" not in record or "split" not in record:
        return record
    beside = {
        name: value
        for name, value in json.loads(record["meta"] or "{}").items()
        if name in ("chosen", "rejected", "input", "preferred_output", "non_preferred_output", "prompt")
    }
    row = {name: record[name] for name in ("messages", "text") if record.get(name) is not None}
    if "text" in row and "rejected" in beside:
        row["prompt"] = row.pop("text")
    return row | beside


def _prompt(record: dict[str, Any], line: int, param: str) -> tuple[Message, ...]:
    prompt = record["prompt"]
    if isinstance(prompt, list):
        return messages_of(prompt, line, param, "prompt")
    if not is_text(prompt):
        raise bad_line(line, "`prompt` must be a text that is not empty, or a list of messages", param)
    return (Message("user", prompt),)


def _answer(value: Any, name: str, line: int, param: str) -> Message:
    """One assistant message, as a text or as a list of it."""
    if isinstance(value, list):
        turns = messages_of(value, line, param, name)
        if len(turns) != 1 or turns[0].role != "assistant":
            raise bad_line(line, f"`{name}` must hold exactly one assistant message", param)
        return Message("assistant", turns[0].content)
    if not is_text(value):
        raise bad_line(
            line, f"`{name}` must be a text that is not empty, or a list with an assistant message", param
        )
    return Message("assistant", value)
