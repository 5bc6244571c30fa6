"""Drops rows with encoding damage, and conversations in an order that no model should learn."""

from __future__ import annotations

from collections.abc import Sequence

from services.data_governance.mojibake import damage
from services.data_governance.rows import ROLES, Dropped, Message, Outcome, Row
from shared.contracts.steps.drop_broken import DropBroken


class Broken:
    """The first rule that a row breaks: roles, their order, the last answer, then the encoding of each text."""

    def __init__(self, step: DropBroken) -> None:
        self._step = step

    def __call__(self, rows: Sequence[Row]) -> Outcome:
        outcome = Outcome()
        for row in rows:
            fault = _order_fault(row.messages) if row.messages is not None else None
            fault = fault or _damage(row)
            if fault:
                outcome.dropped.append(Dropped(row, *fault))
            else:
                outcome.kept.append(row)
        return outcome


def _damage(row: Row) -> tuple[str, str] | None:
    for index, text in enumerate(row.said(), start=1):
        if why := damage(text):
            return "encoding_damage", f"text {index}: {why}"
    return None


def _order_fault(messages: Sequence[Message]) -> tuple[str, str] | None:
    """System messages stand first; then user and assistant take turns; tool results follow an assistant."""
    previous = ""
    for index, (role, _) in enumerate(messages, start=1):
        if not role:
            return "missing_role", f"message {index} has no role"
        if role not in ROLES:
            return "unknown_role", f"message {index}: the role is none of {', '.join(sorted(ROLES))}"
        if previous not in _MAY_FOLLOW[role]:
            after = f"follows {previous}" if previous else "comes first"
            return "wrong_alternation", f"message {index}: {role} {after}"
        previous = role
    if previous != "assistant":
        return (
            "no_answer",
            f"the conversation ends with {previous or 'nothing'}, not with an assistant's answer",
        )
    return None


_MAY_FOLLOW = {
    "system": {"", "system"},
    "user": {"", "system", "assistant"},
    "assistant": {"user", "tool"},
    "tool": {"assistant", "tool"},
}
