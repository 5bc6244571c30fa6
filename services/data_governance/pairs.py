"""The answers of a preference pair that stand in a row's other columns, where training reads them. Knows no row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

# As labelling projects export them and as OpenAI has them; the second of each makes a row a pair.
_COLUMNS = ("chosen", "rejected", "preferred_output", "non_preferred_output")
_MARKS = ('"rejected":', '"non_preferred_output":')


def answers(meta: str) -> tuple[str, ...]:
    """The texts of the answers in `meta` (JSON of the other columns), in a fixed order; none where it is no pair.

    An answer is a text, or a list of messages.
    """
    if not _is_pair(meta):
        return ()
    held = json.loads(meta)
    return tuple(text for name in _COLUMNS for text in _texts(held.get(name)))


def with_answers(meta: str, texts: Sequence[str]) -> str:
    """`meta` whose answers say `texts` instead, one for each of its own."""
    if not texts:
        return meta
    held, left = json.loads(meta), iter(texts)
    for name in _COLUMNS:
        if name in held:
            held[name] = _rewritten(held[name], left)
    return json.dumps(held, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _is_pair(meta: str) -> bool:
    # Looked for as text first: most rows are no pairs, and none of them is parsed for this.
    return any(mark in meta for mark in _MARKS)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        yield from (turn["content"] for turn in value if _is_turn(turn))


def _rewritten(value: Any, left: Iterator[str]) -> Any:
    if isinstance(value, str):
        return next(left)
    if isinstance(value, list):
        return [{**turn, "content": next(left)} if _is_turn(turn) else turn for turn in value]
    return value


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("content"), str)
