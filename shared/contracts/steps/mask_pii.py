"""Personal data."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from shared.contracts.steps.base import StepBase, Strict

PiiType = Literal["email", "phone", "id_card", "bank_card"]


class MaskPiiParams(Strict):
    """Types to mask, and whether the remaining source columns in `meta` are masked too."""

    types: list[PiiType] = Field(default=["email", "phone", "id_card", "bank_card"], min_length=1)
    meta: bool = True


class MaskPii(StepBase):
    """Personal data replaced by typed placeholders such as `[PHONE]`."""

    before: ClassVar[dict[str, str]] = {
        "length_bounds": "masking changes lengths",
    }

    op: Literal["mask_pii"]
    params: MaskPiiParams = MaskPiiParams()
