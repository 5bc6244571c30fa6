"""What a task found for its question: numbered passages for its template, and which of them an answer names. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.contracts.retrieval import Passage

# All passages of one prompt together: the best are kept whole, as many as fit.
MAX_CHARS = 40_000
VARIABLE = "passages"
_MARK = re.compile(r"[\[【［]\s*(\d{1,3})\s*[\]】］]")


@dataclass(frozen=True)
class Sources:
    """The passages that stand in a prompt, the first as [1]."""

    store: str
    passages: tuple[Passage, ...]

    @property
    def text(self) -> str:
        """As the variable `passages` of a template has them: numbered, an empty line between."""
        return "\n\n".join(f"[{number}] {one.text}" for number, one in enumerate(self.passages, 1))

    def annotations(self, answer: str) -> list[dict[str, Any]]:
        """A `file_citation` for each passage that the answer names, in the order of first naming.

        `index` is the passage's place in the list; a number that no passage has is no citation.
        """
        named = dict.fromkeys(int(mark[1]) - 1 for mark in _MARK.finditer(answer))
        return [
            {
                "type": "file_citation",
                "file_id": self.passages[index].file_id,
                "filename": self.passages[index].filename,
                "index": index,
            }
            for index in named
            if 0 <= index < len(self.passages)
        ]

    def cite(self, body: dict[str, Any]) -> dict[str, Any]:
        """A whole answer, in OpenAI's shape, with what it cites."""
        for choice in body["choices"]:
            choice["message"]["annotations"] = self.annotations(choice["message"]["content"] or "")
        return {**body, "retrieval": self.told()}

    def told(self) -> dict[str, Any]:
        """What a client is told of all passages, named or not."""
        return {
            "vector_store": self.store,
            "passages": [one.model_dump(mode="json") for one in self.passages],
        }


def sources_of(store: str, found: Sequence[Passage]) -> Sources:
    """As many of the best as fit into a prompt; the first always, cut where it alone is too long."""
    kept: list[Passage] = []
    left = MAX_CHARS
    for one in found:
        if len(one.text) > left and kept:
            break
        kept.append(one.model_copy(update={"text": one.text[:left]}))
        left -= len(one.text)
    return Sources(store, tuple(kept))
