"""A growing answer of several choices on its way through the output guards of a task: what of it may be shown. Pure.

Speaks of entries as workers send them: {"choice", "text", "tokens", "finish_reason"} and, at the end, {"choices"}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.contracts.task import Guard
from shared.task.guards import FILTERED, OutputGuard


class GuardedAnswer:
    """Guards each choice by itself. A choice that is refused ends at once with the reason `content_filter`."""

    def __init__(self, guard: Guard, count: int) -> None:
        self._guard = guard
        self._count = count
        self._choices: dict[int, OutputGuard] = {}
        self._tokens: dict[int, int] = {}

    def enough(self) -> bool:
        """Whether nothing more of the answer will be shown: all `count` choices have been refused."""
        return sum(choice.refused is not None for choice in self._choices.values()) == self._count

    @property
    def refused(self) -> list[str]:
        """Names of the guards that ended a choice."""
        return sorted({choice.refused for choice in self._choices.values() if choice.refused})

    @property
    def masked(self) -> int:
        """How many pieces of personal data were masked."""
        return sum(choice.masked for choice in self._choices.values())

    def token(self, data: Mapping[str, Any]) -> dict[str, Any] | None:
        """An entry of a token with the text that may be shown; None where there is none yet."""
        index = int(data.get("choice", 0))
        choice = self._choice(index)
        if choice.refused is not None:
            return None
        # Tokens are counted with the text that they came to, and so never lost.
        self._tokens[index] = self._tokens.get(index, 0) + int(data.get("tokens", 1))
        text, reason = choice.push(str(data["text"])), data.get("finish_reason")
        if reason is not None and choice.refused is None:
            text += choice.end()
        if choice.refused is not None:
            reason = FILTERED
        if not text and reason is None:
            return None
        told = {"finish_reason": reason} if reason is not None else {}
        return {**data, "text": text, "tokens": self._tokens.pop(index), **told}

    def done(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The last entry, with each whole choice as it may be shown."""
        return {**data, "choices": [self._ended(i, choice) for i, choice in enumerate(data["choices"])]}

    def _ended(self, index: int, data: Mapping[str, Any]) -> dict[str, Any]:
        choice, whole = self._choice(index), str(data["text"])
        choice.push(whole[choice.seen :])
        choice.end()
        reason = FILTERED if choice.refused is not None else data["finish_reason"]
        return {**data, "text": choice.shown, "finish_reason": reason}

    def _choice(self, index: int) -> OutputGuard:
        return self._choices.setdefault(index, OutputGuard(self._guard))
