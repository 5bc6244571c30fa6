"""Dataset versions that a job could not learn from, or not be measured on, told by their quality report before a worker
is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from services.gateway.models import resolve
from shared.contracts.early_stopping import StopsEarly, asks_for_looks, check_watched
from shared.contracts.head_rows import why_no_classes
from shared.contracts.heads import RANKS, HeadKind
from shared.contracts.training import DataRef
from shared.db import Connection
from shared.errors import InvalidInput


def check_version(
    connection: Connection,
    tenant: UUID,
    head: HeadKind,
    training: DataRef,
    validation: DataRef | None,
    at: str = "",
) -> None:
    """Raises InvalidInput `invalid_training_file`; nothing is said of a file, nor of what a report does not tell."""
    if training.kind != "version":
        return
    param = f"{at}training_file"
    if head in RANKS:
        raise _refused(
            f"a dataset version has no column that a {head} head learns from; give a JSONL file", param
        )
    report: Mapping[str, Any] = resolve.version_row(connection, tenant, training.id, param=param)["report"]
    splits = report.get("splits") or {}
    if splits.get("train") == 0:
        raise _refused("the training split is empty", param)
    if splits.get("validation") == 0 and validation is None:
        raise _refused(
            "the validation split is empty, so nothing could be measured; give a validation file",
            f"{at}validation_file",
        )
    labels = report.get("labels") or {}
    if head not in ("single_label", "multi_label") or "counts" not in labels:
        return
    names = labels["counts"]
    if head == "multi_label":
        names = {part.strip() for name in names for part in name.split(",")}
    if len(names) < 2 and not labels.get("rows_beyond_listed"):
        reason = why_no_classes(names)
        assert reason is not None
        raise _refused(reason, param)


def check_held_out(
    connection: Connection,
    tenant: UUID,
    given: StopsEarly,
    training: DataRef,
    validation: DataRef | None,
    *,
    of_files: bool,
) -> None:
    """Raises InvalidInput where hyperparameters ask for looks at held-out rows and none are held out, as far as it is
    known. `of_files` says whether this way of training holds a part of a file's rows out by itself."""
    if validation is not None or asks_for_looks(given) is None:
        return
    if training.kind == "version":
        version = resolve.version_row(connection, tenant, training.id, param="training_file")
        check_watched(given, version["validation_rows"] > 0)
    else:
        check_watched(given, of_files)


def _refused(message: str, param: str) -> InvalidInput:
    return InvalidInput(message, code="invalid_training_file", param=param)
