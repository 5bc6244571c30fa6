"""Rows for heads out of JSONL and governed versions, checked, and a part of them held out. Knows no tokenizer.

A row has `text` (or `messages`, whose user turns are the text) with `label`, `labels` or `score`; for ranking it has
`query` with `document` and `score`, or with `positive` and `negative`: see `shared.contracts.head_rows`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services.training.dataset import Split, bad_line, is_version, read_records
from services.training.spec import DataPaths
from shared.contracts.head_rows import BadRow, Target, labels_in, row_of, why_no_classes, why_unknown
from shared.contracts.heads import RANKS, HeadChoice, HeadKind
from shared.errors import InvalidInput


@dataclass(frozen=True)
class Example:
    """`texts` are a text, a query and its document, or a query with a better and a worse document."""

    line: int
    texts: tuple[str, ...]
    target: Target

    @property
    def group(self) -> str:
        """What must not be on both sides of a split."""
        return " ".join(self.texts[0].casefold().split())


def read_examples(paths: Sequence[Path], split: Split, head: HeadKind, param: str) -> list[Example]:
    """Raises InvalidInput `invalid_training_file` with the line at fault."""
    return [_example(record, line, head, param) for line, record in read_records(paths, split, param)]


def read_parts(
    data: DataPaths, choice: HeadChoice, share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """(training, held out), checked; without a validation file `share` of the rows is held out."""
    training = read_examples(data.train, "train", choice.head, "training_file")
    if data.validation or any(is_version(path, "training_file") for path in data.train):
        held_out = read_examples(data.validation, "validation", choice.head, "validation_file")
    else:
        training, held_out = hold_out(training, share, seed)
    check(training, held_out, choice.head, choice.named_loss)
    return training, held_out


def _example(record: dict[str, Any], line: int, head: HeadKind, param: str) -> Example:
    try:
        texts, target = row_of(record, head)
    except BadRow as exc:
        raise bad_line(line, str(exc), param) from exc
    return Example(line, texts, target)


def labels_of(examples: Sequence[Example]) -> list[str]:
    """Every label, in the order of the alphabet."""
    return sorted({label for example in examples for label in labels_in(example.target)})


def hold_out(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(training, held out): about `share` of each label's rows are held out, equal texts together.

    A label of which there is one text stays in training.
    """
    rng = np.random.default_rng((seed, 1))
    texts: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        texts[example.group].append(example)
    strata: dict[str, list[str]] = defaultdict(list)
    for text, same in texts.items():
        target = same[0].target
        strata[target if isinstance(target, str) else ""].append(text)
    held: set[str] = set()
    for _, members in sorted(strata.items()):
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held.update(members[i] for i in rng.permutation(len(members))[:count])
    # Several labels have no strata: what would be in no training row any more is learned, not held out.
    learned = {label for text, same in texts.items() if text not in held for label in labels_of(same)}
    for text in sorted(held):
        missing = set(labels_of(texts[text])) - learned
        if missing:
            held.discard(text)
            learned |= set(labels_of(texts[text]))
    training = [example for example in examples if example.group not in held]
    return training, [example for example in examples if example.group in held]


def drawn(examples: Sequence[Example], most: int, seed: int) -> list[int]:
    """Places of about `most` examples, in their order, drawn by the seed: all of a text or of a query, or none, so that
    a query's documents can be put in order."""
    if len(examples) <= most:
        return list(range(len(examples)))
    places: dict[str, list[int]] = defaultdict(list)
    for place, example in enumerate(examples):
        places[example.group].append(place)
    groups, found = list(places.values()), list[int]()
    for number in np.random.default_rng((seed, 5)).permutation(len(groups)):
        if len(found) >= most:
            break
        found += groups[number]
    return sorted(found)


def check(training: Sequence[Example], held_out: Sequence[Example], head: HeadKind, loss: str) -> None:
    """Raise InvalidInput for rows that nothing can be learned from, or not be measured on."""
    if not training:
        raise _refused("the training split is empty", "training_file")
    if not held_out:
        raise _refused(
            "the validation split is empty, so nothing could be measured; give a validation file, or more rows",
            "validation_file",
        )
    if head in ("single_label", "multi_label"):
        _check_labels(training, held_out)
    elif head != "rank_pairwise":
        _check_scores(training, head, loss)
    if head in RANKS and not any(len(scores) > 1 for scores in relevance_by_query(held_out).values()):
        raise _refused(
            "no query of the validation split has documents that differ in worth; nothing can be put in order",
            "validation_file",
        )


def _check_labels(training: Sequence[Example], held_out: Sequence[Example]) -> None:
    known = set(labels_of(training))
    reason = why_no_classes(known)
    if reason is not None:
        raise _refused(reason, "training_file")
    for example in held_out:
        reason = why_unknown(example.target, known)
        if reason is not None:
            raise bad_line(example.line, reason, "validation_file")


def _check_scores(training: Sequence[Example], head: HeadKind, loss: str) -> None:
    scores = [float(example.target) for example in training if isinstance(example.target, float)]
    if min(scores) == max(scores):
        raise _refused(
            f"every training row has the score {scores[0]:g}; there is nothing to learn", "training_file"
        )
    if head == "rank_pointwise" and loss == "binary_cross_entropy":
        for example in training:
            assert isinstance(example.target, float)
            if not 0 <= example.target <= 1:
                raise bad_line(
                    example.line,
                    f"`score` is {example.target:g}; the loss {loss!r} takes 0 to 1, squared_error takes any",
                    "training_file",
                )


def relevance_by_query(examples: Sequence[Example]) -> dict[str, dict[float, int]]:
    """How many documents of each worth every query has."""
    found: dict[str, Counter[float]] = defaultdict(Counter)
    for example in examples:
        if isinstance(example.target, float):
            found[example.texts[0]][example.target] += 1
        else:
            found[example.texts[0]].update((0.0, 1.0))
    return {query: dict(counts) for query, counts in found.items()}


def _refused(what: str, param: str) -> InvalidInput:
    return InvalidInput(what, code="invalid_training_file", param=param)
