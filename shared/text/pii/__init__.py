"""Personal data in Chinese and English text: what it is, where it stands, and how it is masked. Pure."""

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
