"""Files of rows for heads, looked into before a worker is taken: whole where they are small, else their beginning.

What needs all rows (two labels or more, none that held-out rows alone have) is asked of small files here, of large
files and of dataset versions in the job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from shared.artifacts import Artifacts
from shared.contracts.base import JobContract
from shared.contracts.head_rows import BadRow, Target, labels_in, row_of, why_no_classes, why_unknown
from shared.contracts.heads import HeadKind, TrainHead
from shared.contracts.multi_task import TrainMultiTask
from shared.contracts.training import DataRef
from shared.errors import InvalidInput, NotFound

LOOKED_INTO = 4 * 1024 * 1024
LABELLED = ("single_label", "multi_label")


def check_heads(store: Artifacts, contract: JobContract) -> None:
    """Raises InvalidInput `invalid_training_file` with the line; nothing is said of what is no head's job."""
    if isinstance(contract, TrainHead):
        _check(store, contract.choice.head, contract.training, contract.validation, "")
    elif isinstance(contract, TrainMultiTask):
        for place, part in enumerate(contract.parts):
            _check(store, part.head, part.training, part.validation, f"tasks[{place}].")


def _check(store: Artifacts, head: HeadKind, training: DataRef, validation: DataRef | None, at: str) -> None:
    rows, whole = _rows(store, training, head, f"{at}training_file")
    held, _ = _rows(store, validation, head, f"{at}validation_file") if validation else ([], False)
    if not whole or head not in LABELLED:
        return
    known = {label for _, target in rows for label in labels_in(target)}
    reason = why_no_classes(known)
    if reason is not None:
        raise _refused(reason, f"{at}training_file")
    for line, target in held:
        reason = why_unknown(target, known)
        if reason is not None:
            raise _refused(f"line {line}: {reason}", f"{at}validation_file")


def _rows(
    store: Artifacts, data: DataRef, head: HeadKind, param: str
) -> tuple[Sequence[tuple[int, Target]], bool]:
    """((line, target) of what was read, whether that is all); none of a version, or of what is not in the store."""
    if data.kind != "file":
        return [], False
    try:
        with store.open(data.artifact) as source:
            content = source.read(LOOKED_INTO)
    except NotFound:
        # The job will say so where it needs it.
        return [], False
    whole = len(content) < LOOKED_INTO
    rows = []
    for line, record in _records(content, param, whole=whole):
        try:
            rows.append((line, row_of(record, head)[1]))
        except BadRow as exc:
            raise _refused(f"line {line}: {exc}", param) from exc
    if not rows:
        raise _refused("the file has no row", param)
    return rows, whole


def _records(content: bytes, param: str, *, whole: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines as objects; the last one of a part may have been cut, and is left out."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines if whole else lines[:-1], start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise _refused(f"line {number}: not valid JSON: {exc}", param) from exc
        if not isinstance(record, dict):
            raise _refused(
                f"line {number}: a JSON {type(record).__name__}; each line must be an object", param
            )
        yield number, record


def _refused(message: str, param: str) -> InvalidInput:
    return InvalidInput(message, code="invalid_training_file", param=param)
