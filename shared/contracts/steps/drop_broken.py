"""Rows that no model should learn from."""

from __future__ import annotations

from typing import Literal

from shared.contracts.steps.base import NoParams, StepBase


class DropBroken(StepBase):
    """Rows with encoding damage, and conversations that cannot be learnt from."""

    op: Literal["drop_broken"]
    params: NoParams = NoParams()
