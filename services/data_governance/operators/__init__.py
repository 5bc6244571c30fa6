"""The operators by name. Adding one: its file here, its parameters in the recipe contract, and its line below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.data_governance.operators.conflicting_labels import Conflicts
from services.data_governance.operators.drop_broken import Broken
from services.data_governance.operators.drop_empty import Empty
from services.data_governance.operators.exact_duplicates import Duplicates
from services.data_governance.operators.length_bounds import Lengths
from services.data_governance.operators.mask_pii import Mask
from services.data_governance.operators.normalize_text import Normalize
from services.data_governance.rows import Operator
from shared.contracts.steps import Step

OPERATORS: dict[str, Callable[[Any], Operator]] = {
    "normalize_text": Normalize,
    "drop_empty": Empty,
    "drop_broken": Broken,
    "conflicting_labels": Conflicts,
    "exact_duplicates": Duplicates,
    "mask_pii": Mask,
    "length_bounds": Lengths,
}


def build(step: Step) -> Operator:
    """A fresh operator for one run of this step; it may gather state, so it is never shared between runs."""
    return OPERATORS[step.op](step)
