"""What each operator of a recipe may be told, one module an operator; `STEP_TYPES` is the list of them all.

An operator's parameters are declared here, so that the gateway refuses a wrong recipe before a worker sees it; what it
does lives in the module of the same name in `services/data_governance/operators/`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.contracts.steps.conflicting_labels import ConflictingLabels
from shared.contracts.steps.drop_broken import DropBroken
from shared.contracts.steps.drop_empty import DropEmpty
from shared.contracts.steps.exact_duplicates import ExactDuplicates
from shared.contracts.steps.length_bounds import LengthBounds
from shared.contracts.steps.mask_pii import MaskPii
from shared.contracts.steps.normalize_text import NormalizeText

STEP_TYPES = (
    NormalizeText,
    DropEmpty,
    DropBroken,
    ExactDuplicates,
    ConflictingLabels,
    MaskPii,
    LengthBounds,
)
Step = Annotated[
    NormalizeText | DropEmpty | DropBroken | ExactDuplicates | ConflictingLabels | MaskPii | LengthBounds,
    Field(discriminator="op"),
]
