"""Rows that contradict each other."""

from __future__ import annotations

from typing import ClassVar, Literal

from shared.contracts.steps.base import StepBase, Strict


class ConflictingLabelsParams(Strict):
    """Rows with the same user turns (`label`) or the same context (`answer`) that disagree.

    `majority` keeps the value most rows have (a tie drops all), `drop` keeps none of them.
    """

    compare: Literal["label", "answer"] = "label"
    resolution: Literal["majority", "drop"] = "majority"


class ConflictingLabels(StepBase):
    """Rows that say different things of the same question."""

    before: ClassVar[dict[str, str]] = {
        "exact_duplicates": "without the duplicates there are no votes to count",
    }

    op: Literal["conflicting_labels"]
    params: ConflictingLabelsParams = ConflictingLabelsParams()
