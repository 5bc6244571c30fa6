"""Rows that say nothing."""

from __future__ import annotations

from typing import Literal

from shared.contracts.steps.base import NoParams, StepBase


class DropEmpty(StepBase):
    """Rows without any text, and conversations with a blank message."""

    op: Literal["drop_empty"]
    params: NoParams = NoParams()
