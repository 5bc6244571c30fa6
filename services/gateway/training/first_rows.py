"""The first rows of a file, held against what a way of training learns from, before a worker is taken.

Only whether rows are of the right sort; what else may be wrong with them the job says, with the line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from services.gateway.training.head_rows import check_heads
from shared.artifacts import Artifacts
from shared.contracts.base import JobContract
from shared.contracts.preferences import (
    TunePreferences,
    shape_of_record,
    why_no_conversation,
    why_no_pair,
)
from shared.contracts.training import DataRef, FineTune
from shared.db import Connection
from shared.errors import InvalidInput, NotFound

LOOKED_AT = 16
MOST_BYTES = 256 * 1024
Why = Callable[[Mapping[str, Any]], str | None]


def of_the_right_sort(
    store: Artifacts, make: Callable[[Connection], JobContract]
) -> Callable[[Connection], JobContract]:
    """`make`, whose contract's files are looked into. Raises InvalidInput `invalid_training_file` with the line."""

    def made(connection: Connection) -> JobContract:
        contract = make(connection)
        check_heads(store, contract)
        why = _WHY.get(type(contract))
        if why is not None:
            for param, name in (("training_file", "training"), ("validation_file", "validation")):
                data: DataRef | None = getattr(contract, name)
                if data is not None and data.kind == "file":
                    _check(store, data, why, param)
        return contract

    return made


def _check(store: Artifacts, data: DataRef, why: Why, param: str) -> None:
    try:
        with store.open(data.artifact) as source:
            head = source.read(MOST_BYTES)
    except NotFound:
        # The job will say so where it needs it.
        return
    lines = head.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if len(head) == MOST_BYTES:
        # The last one may have been cut.
        lines.pop()
    rows = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    found = list(islice(rows, LOOKED_AT))
    if not found and len(head) < MOST_BYTES:
        raise _refused(f"the file {data.id} has no row", param)
    for number, line in found:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return
        reason = why(record) if isinstance(record, dict) else None
        if reason is not None:
            raise _refused(f"line {number}: {reason}", param)


def _refused(message: str, param: str) -> InvalidInput:
    return InvalidInput(message, code="invalid_training_file", param=param)


def _no_pair(record: Mapping[str, Any]) -> str | None:
    return why_no_pair(record) if shape_of_record(record) is None else None


_WHY: Mapping[type[JobContract], Why] = {FineTune: why_no_conversation, TunePreferences: _no_pair}
