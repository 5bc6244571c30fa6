"""Rows that say nearly the same."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.steps.base import StepBase, Strict


class NearDuplicatesParams(Strict):
    """`threshold` is the share of common five-character pieces (Jaccard) from which on two texts are nearly the same.

    Texts are compared without case, width, spaces and punctuation. `include_label` tells rows apart whose labels
    differ. `on` says what of a conversation is compared.
    """

    threshold: Annotated[float, Field(ge=0.5, le=1.0, allow_inf_nan=False)] = 0.8
    include_label: bool = True
    on: Literal["row", "question"] = "row"


class NearDuplicates(StepBase):
    """All but the first of each group of rows with nearly the same text."""

    before: ClassVar[dict[str, str]] = {
        "mask_pii": "a placeholder makes rows of different people alike",
    }

    op: Literal["near_duplicates"]
    params: NearDuplicatesParams = NearDuplicatesParams()
