"""The live call that grades one answer by graders that ask no model. Pure."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from shared.contracts.base import LiveCall
from shared.contracts.graders import Criterion


class GradeSample(LiveCall):
    """{"results": {name: {"score", "passed"} or {"error": {"code", "message"}}}} of graders by the names given here."""

    name: ClassVar[str] = "training.grade"
    queue: ClassVar[str] = "training.live"

    graders: dict[str, Criterion] = Field(min_length=1)
    sample: dict[str, Any]
    item: dict[str, Any]

    @property
    def needs(self) -> str:
        return "a worker that grades"

    @property
    def served_by(self) -> str:
        return "a training worker"
