"""Rows that say the same."""

from __future__ import annotations

from typing import Literal

from shared.contracts.steps.base import StepBase, Strict


class ExactDuplicatesParams(Strict):
    """What makes two rows the same.

    `normalised` compares without case, width, spaces and punctuation, marks within numbers excepted;
    `include_label` tells rows apart whose labels differ.
    """

    normalised: bool = False
    include_label: bool = True


class ExactDuplicates(StepBase):
    """All but the first of rows with the same content."""

    op: Literal["exact_duplicates"]
    params: ExactDuplicatesParams = ExactDuplicatesParams()
