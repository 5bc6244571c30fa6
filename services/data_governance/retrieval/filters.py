"""Whether the attributes of a file pass a filter. Pure.

A file without the attribute passes `ne` and `nin` and nothing else; numbers are compared with numbers, texts with
texts, and a text is never less or more than a number.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from shared.contracts.retrieval import Comparison, Compound, Filter

_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def passes(filter_: Filter, attributes: Mapping[str, Any]) -> bool:
    if isinstance(filter_, Compound):
        together = all if filter_.type == "and" else any
        return together(passes(one, attributes) for one in filter_.filters)
    return _compares(filter_, attributes.get(filter_.key))


def _compares(filter_: Comparison, held: Any) -> bool:
    match filter_.type:
        case "eq":
            return _same(held, filter_.value)
        case "ne":
            return not _same(held, filter_.value)
        case "in":
            return any(_same(held, value) for value in filter_.value)
        case "nin":
            return not any(_same(held, value) for value in filter_.value)
    if held is None or isinstance(held, bool) or isinstance(held, str) != isinstance(filter_.value, str):
        return False
    return _ORDERS[filter_.type](held, filter_.value)


def _same(held: Any, value: Any) -> bool:
    """Equal and of one kind: True is not 1, and "1" is not 1."""
    kinds = (bool, str)
    return (
        held is not None and all(isinstance(held, k) == isinstance(value, k) for k in kinds) and held == value
    )
