"""What is kept of each row of a batch. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from shared.errors import HeliuError


@dataclass(frozen=True)
class StoredRow:
    """One answered (or failed) line of a batch."""

    row_no: int
    custom_id: str
    status_code: int
    body: dict[str, Any]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    model_artifact: str | None = None
    seconds: float = 0.0
    # Which task and version it was, and what guard ended it.
    metadata: dict[str, Any] = field(default_factory=dict)
    # Of a generated text; what a row of numbers is known by is its batch and number.
    answer_id: str | None = None


def row_error(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of a row that has no answer."""
    kind = "invalid_request_error" if param else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal(refused: HeliuError) -> dict[str, Any]:
    """The body of a row that a guard of its task did not let in."""
    return row_error(refused.code, refused.message, f"body.{refused.param}")


def row_request_id(batch_id: str, row_no: int) -> str:
    """The same for every attempt at a row, so that what refers to it stays true."""
    return hashlib.sha256(f"{batch_id}:{row_no}".encode()).hexdigest()[:24]
