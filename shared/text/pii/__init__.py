"""Personal data in Chinese and English text: what it is, where it stands, and how it is masked. Pure.

Found by rules, not by a model: look-arounds instead of word boundaries (Chinese has none), check digits where there are
any, and words beside a number where there are not. A set of 956 invented texts holds precision and recall of each type
at 0.98 or more. A pseudonym is keyed by the recipe's salt and has letters alone, so that no later look takes it for a
number.
"""

from shared.text.pii.checks import is_bank_card, is_credit_code, is_id_card
from shared.text.pii.search import ALL_TYPES, PLACEHOLDER, Found, find, mask, might_have, narrow, replace

__all__ = [
    "ALL_TYPES",
    "PLACEHOLDER",
    "Found",
    "find",
    "is_bank_card",
    "is_credit_code",
    "is_id_card",
    "mask",
    "might_have",
    "narrow",
    "replace",
]
