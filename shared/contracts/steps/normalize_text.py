"""Makes equal text equal."""

from __future__ import annotations

from typing import ClassVar, Literal

from shared.contracts.steps.base import StepBase, Strict


class NormalizeTextParams(Strict):
    """`width` makes full-width letters, digits and spaces half width; Chinese punctuation stays."""

    form: Literal["none", "nfc", "nfkc"] = "nfc"
    width: bool = True
    whitespace: bool = True
    control: bool = True
    mojibake: bool = True


class NormalizeText(StepBase):
    """Unicode, width, whitespace, control characters, and mojibake where the repair is certain."""

    before: ClassVar[dict[str, str]] = {
        "mask_pii": "normalising can uncover numbers that masking could not read",
        "exact_duplicates": "normalising makes new duplicates",
        "conflicting_labels": "normalising makes more questions the same",
        "drop_broken": "repairable encoding damage would be dropped",
        "drop_empty": "normalising can leave a row empty",
        "length_bounds": "normalising changes lengths",
    }

    op: Literal["normalize_text"]
    params: NormalizeTextParams = NormalizeTextParams()
