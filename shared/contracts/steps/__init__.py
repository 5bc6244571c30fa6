"""What each operator of a recipe may be told, one module an operator; `STEP_TYPES` is the list of them all.

An operator's parameters are declared here, so that the gateway refuses a wrong recipe before a worker sees it; what it
does lives in the module of the same name in `services/data_governance/operators/`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.contracts.steps.assemble_conversations import AssembleConversations
from shared.contracts.steps.balance_labels import BalanceLabels
from shared.contracts.steps.blocked_words import BlockedWords
from shared.contracts.steps.check_rows import CheckRows
from shared.contracts.steps.conflicting_labels import ConflictingLabels
from shared.contracts.steps.convert_chinese import ConvertChinese
from shared.contracts.steps.drop_broken import DropBroken
from shared.contracts.steps.drop_empty import DropEmpty
from shared.contracts.steps.drop_repetitive import DropRepetitive
from shared.contracts.steps.exact_duplicates import ExactDuplicates
from shared.contracts.steps.filter_language import FilterLanguage
from shared.contracts.steps.length_bounds import LengthBounds
from shared.contracts.steps.map_fields import MapFields
from shared.contracts.steps.map_labels import MapLabels
from shared.contracts.steps.mask_pii import MaskPii
from shared.contracts.steps.near_duplicates import NearDuplicates
from shared.contracts.steps.normalize_text import NormalizeText
from shared.contracts.steps.quality_filter import QualityFilter
from shared.contracts.steps.strip_markup import StripMarkup

STEP_TYPES = (
    NormalizeText,
    DropEmpty,
    DropBroken,
    ExactDuplicates,
    ConflictingLabels,
    NearDuplicates,
    MaskPii,
    LengthBounds,
    ConvertChinese,
    FilterLanguage,
    QualityFilter,
    DropRepetitive,
    BlockedWords,
    MapLabels,
    CheckRows,
    MapFields,
    StripMarkup,
    AssembleConversations,
    BalanceLabels,
)
Step = Annotated[
    NormalizeText
    | DropEmpty
    | DropBroken
    | ExactDuplicates
    | ConflictingLabels
    | NearDuplicates
    | MaskPii
    | LengthBounds
    | BlockedWords
    | CheckRows
    | ConvertChinese
    | DropRepetitive
    | FilterLanguage
    | MapFields
    | MapLabels
    | QualityFilter
    | StripMarkup
    | AssembleConversations
    | BalanceLabels,
    Field(discriminator="op"),
]
