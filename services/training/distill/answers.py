"""What came back from a batch: answers by id, the training rows that they make, and figures beside references."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from services.training.distill.prompts import TRAIN, Prompt, custom_id
from services.training.metrics import exact_match, token_f1


@dataclass
class Answers:
    """`texts` by custom_id; `why` says of the others why they have none, and of a text that was cut that it was."""

    texts: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def is_whole(self, one: str) -> bool:
        return one in self.texts and one not in self.why


def read_answers(lines: Iterable[bytes]) -> Answers:
    """From a batch's output and error files: a row that failed, was refused by a guard or is empty has no text."""
    found = Answers()
    for line in lines:
        row = json.loads(line)
        text, reason = _answer(row)
        if text:
            found.texts[row["custom_id"]] = text
        if reason is not None:
            found.why[row["custom_id"]] = reason
    return found


def _answer(row: Mapping[str, Any]) -> tuple[str, str | None]:
    response = row.get("response") or {}
    if row.get("error") or response.get("status_code") != 200:
        return "", "failed"
    choice = response["body"]["choices"][0]
    text = (choice["message"].get("content") or "").strip()
    if choice["finish_reason"] == "content_filter":
        return "", "refused"
    if not text:
        return "", "empty"
    return text, "over_long" if choice["finish_reason"] == "length" else None


def training_rows(prompts: Sequence[Prompt], answers: Answers, name: str) -> tuple[bytes, dict[str, int]]:
    """(JSONL of conversations that end in the answers of `name`, how many were dropped by reason).

    An answer that was cut at the limit is dropped: it would teach to stop in the middle. Earlier turns of an assistant
    are not learned: they are not the teacher's.
    """
    ids = [custom_id(TRAIN, place, name) for place in range(len(prompts))]
    rows = []
    dropped = Counter(answers.why.get(one, "failed") for one in ids if not answers.is_whole(one))
    for prompt, one in zip(prompts, ids, strict=True):
        if not answers.is_whole(one):
            continue
        turns: list[dict[str, Any]] = [
            {**turn.as_dict(), **({"weight": 0} if turn.role == "assistant" else {})} for turn in prompt.turns
        ]
        turns.append({"role": "assistant", "content": answers.texts[one]})
        rows.append(json.dumps({"messages": turns}, ensure_ascii=False).encode() + b"\n")
    return b"".join(rows), dict(dropped)


def figures(
    prompts: Sequence[Prompt], given: Sequence[str | None], teacher: Sequence[str | None]
) -> dict[str, float]:
    """Means over held-out prompts of token F1 and exact match against the rows' own answers, and of token F1 against
    the teacher's (`agreement`). Who has no answer to a prompt has none of its words."""
    told: dict[str, float] = {"rows": len(prompts), "unanswered": sum(one is None for one in given)}
    pairs = [
        (one or "", prompt.reference)
        for prompt, one in zip(prompts, given, strict=True)
        if prompt.reference is not None
    ]
    if pairs:
        told["token_f1"] = fmean(token_f1(answer, reference) for answer, reference in pairs)
        told["exact_match"] = fmean(exact_match(answer, reference) for answer, reference in pairs)
    both = [(one or "", said) for one, said in zip(given, teacher, strict=True) if said is not None]
    if both:
        told["agreement"] = fmean(token_f1(answer, said) for answer, said in both)
    return told
