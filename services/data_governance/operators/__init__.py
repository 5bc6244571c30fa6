"""The operators by name. Adding one: its module here and that of its parameters in `shared.contracts.steps`, both of
its name, and a line in each package's list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.data_governance.operators.assemble_conversations import Assembled
from services.data_governance.operators.balance_labels import Balanced
from services.data_governance.operators.blocked_words import Blocked
from services.data_governance.operators.check_rows import Checked
from services.data_governance.operators.conflicting_labels import Conflicts
from services.data_governance.operators.convert_chinese import Convert
from services.data_governance.operators.drop_broken import Broken
from services.data_governance.operators.drop_empty import Empty
from services.data_governance.operators.drop_repetitive import Repetitive
from services.data_governance.operators.exact_duplicates import Duplicates
from services.data_governance.operators.filter_language import Languages
from services.data_governance.operators.length_bounds import Lengths
from services.data_governance.operators.map_fields import Map
from services.data_governance.operators.map_labels import Labels
from services.data_governance.operators.mask_pii import Mask
from services.data_governance.operators.near_duplicates import NearDuplicateRows
from services.data_governance.operators.normalize_text import Normalize
from services.data_governance.operators.quality_filter import QualityOfForm
from services.data_governance.operators.strip_markup import Strip
from services.data_governance.rows import Gathering, Operator, Settling
from shared.contracts.steps import Step

# Row by row.
OPERATORS: dict[str, Callable[[Any], Operator]] = {
    "normalize_text": Normalize,
    "drop_empty": Empty,
    "drop_broken": Broken,
    "mask_pii": Mask,
    "length_bounds": Lengths,
    "blocked_words": Blocked,
    "check_rows": Checked,
    "convert_chinese": Convert,
    "drop_repetitive": Repetitive,
    "filter_language": Languages,
    "map_fields": Map,
    "map_labels": Labels,
    "quality_filter": QualityOfForm,
    "strip_markup": Strip,
}
# Those that must have seen every row first.
SETTLING: dict[str, Callable[[Any], Settling]] = {
    "assemble_conversations": Assembled,
    "balance_labels": Balanced,
    "conflicting_labels": Conflicts,
    "exact_duplicates": Duplicates,
    "near_duplicates": NearDuplicateRows,
}
# Settling steps whose rows are others afterwards.
GATHERING: dict[str, Callable[[Any], Gathering]] = {"assemble_conversations": Assembled}


def build(step: Step) -> Operator:
    """The operator of a row-wise step."""
    return OPERATORS[step.op](step)


def build_settling(step: Step) -> Settling:
    """The operator of a step that looks at all rows."""
    return SETTLING[step.op](step)
