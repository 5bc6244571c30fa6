"""The erasure of a subject's rows: what is asked, and the job that looks for them and buries them."""

from __future__ import annotations

import hashlib
from typing import ClassVar, Self

from pydantic import Field, model_validator

from shared.contracts.base import JobContract, Message
from shared.contracts.lineage import MAX_ROWS


class Subject(Message):
    """Rows by id, or all rows whose `column` has the value with this SHA-256: jobs are kept, and hold no value."""

    row_ids: tuple[str, ...] = Field((), max_length=MAX_ROWS)
    column: str | None = Field(None, min_length=1, max_length=256)
    value_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.row_ids) == (self.column is not None):
            raise ValueError("give row_ids, or a column and its value; one of both")
        if (self.column is None) != (self.value_sha256 is None):
            raise ValueError("a column and its value go together")
        return self


class EraseSubject(JobContract):
    """Find the subject's rows in all versions and files of the tenant; unless it is a dry run, bury them."""

    kind: ClassVar[str] = "data.erase"
    queue: ClassVar[str] = "data"
    id_prefix: ClassVar[str] = "erasejob-"
    stall_limit_s: ClassVar[float | None] = 300.0

    erasure_id: str
    subject: Subject
    dry_run: bool


def digest_of(value: str) -> str:
    """The hash that stands for a value."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
