"""Prompts for a teacher out of training rows, and the lines of the batch that asks it. Knows no job and no model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services.training.dataset import Message, Row, Split, bad_line, is_version, read_rows
from services.training.spec import DataPaths
from shared.contracts.answers import CHAT
from shared.errors import InvalidInput

# Of a file that comes without a validation file.
HELD_OUT_SHARE = 0.1
TRAIN, HELD = "train", "held"


@dataclass(frozen=True)
class Prompt:
    """Turns up to the last of the user, and the answer that the rows have to it, where they have one."""

    turns: tuple[Message, ...]
    reference: str | None

    @property
    def key(self) -> str:
        """What two prompts have in common that are the same."""
        return json.dumps([turn.as_dict() for turn in self.turns], ensure_ascii=False)


@dataclass(frozen=True)
class Prompts:
    """`train` and `held_out` have no prompt in common. `found` are the different ones of the training rows; `answered`
    says whether all held-out rows have an answer of their own, which the student's training could watch."""

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    found: int
    answered: bool


def choose(data: DataPaths, most: int, held_out: int, seed: int) -> Prompts:
    """At most `most` prompts to learn from and `held_out` to be measured on, drawn by the seed, in the files' order.

    Raises InvalidInput where there are no prompts of one kind.
    """
    training = _distinct(_read(data.train, "train", "training_file"))
    if data.validation or any(is_version(path, "training_file") for path in data.train):
        watched = _distinct(_read(data.validation, "validation", "validation_file"))
        keys = {prompt.key for prompt in watched}
        training = [prompt for prompt in training if prompt.key not in keys]
    else:
        share = max(1, round(HELD_OUT_SHARE * len(training)))
        picked = set(_drawn(len(training), min(share, held_out), seed))
        watched = [prompt for place, prompt in enumerate(training) if place in picked]
        training = [prompt for place, prompt in enumerate(training) if place not in picked]
    for found, what, param in (
        (training, "training split has no prompts", "training_file"),
        (watched, "validation split has no prompts, so nothing could be measured", "validation_file"),
    ):
        if not found:
            raise InvalidInput(f"the {what}", code="invalid_training_file", param=param)
    return Prompts(
        tuple(training[place] for place in _drawn(len(training), most, seed)),
        tuple(watched[place] for place in _drawn(len(watched), held_out, seed)),
        len(training),
        all(prompt.reference is not None for prompt in watched),
    )


def lines(prompts: Mapping[str, Sequence[Prompt]], asked: Sequence[tuple[str, Mapping[str, Any]]]) -> bytes:
    """Batch input: for each part of `prompts` by its name, and each of `asked`, a request a prompt.

    `asked` are (name of who answers, what its requests have beside the messages); ids are `part.place.name`.
    """
    return b"".join(
        json.dumps(
            {
                "custom_id": custom_id(part, place, name),
                "method": "POST",
                "url": CHAT,
                "body": {**body, "messages": [turn.as_dict() for turn in prompt.turns]},
            },
            ensure_ascii=False,
        ).encode()
        + b"\n"
        for part, some in prompts.items()
        for place, prompt in enumerate(some)
        for name, body in asked
    )


def custom_id(part: str, place: int, name: str) -> str:
    return f"{part}.{place}.{name}"


def _read(paths: Sequence[Path], split: Split, param: str) -> Iterator[Prompt]:
    for row in read_rows(paths, split, param):
        yield _prompt(row, param)


def _prompt(row: Row, param: str) -> Prompt:
    if row.messages is None:
        return Prompt((Message("user", row.text or ""),), row.label)
    last = max((place for place, turn in enumerate(row.messages) if turn.role == "user"), default=None)
    if last is None:
        raise bad_line(row.line, "no user's turn that a teacher could answer", param)
    after = row.messages[last + 1 :]
    return Prompt(row.messages[: last + 1], after[0].content if after else None)


def _distinct(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The first of each."""
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        found.setdefault(prompt.key, prompt)
    return list(found.values())


def _drawn(count: int, most: int, seed: int) -> list[int]:
    return sorted(int(place) for place in np.random.default_rng((seed, 4)).permutation(count)[:most])
