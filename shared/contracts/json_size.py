"""How many values JSON text holds, told before any of them is made. Pure.

Four megabytes of wrong values cost gigabytes and half a minute to complain about; no body or row of ours has a use
for so many, but for texts that are given as tokens.
"""

from __future__ import annotations

import re

MAX_VALUES = 20_000
# Texts given as tokens are a value each, and are complained about at the first that is wrong.
MAX_TOKEN_VALUES = 400_000
QUOTE = ord('"')
# Possessive, and content with a string that never ends, so that nothing makes it try a place twice.
TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[,{\[]', re.DOTALL)


def too_many_values(raw: bytes, most: int = MAX_VALUES) -> bool:
    """Whether there are more than `most`, by what stands between and around them outside of strings."""
    if len(raw) <= most:
        return False
    values = 0
    for number, token in enumerate(TOKENS.finditer(raw)):
        values += raw[token.start()] != QUOTE
        if values > most or number > 4 * most:
            return True
    return False
