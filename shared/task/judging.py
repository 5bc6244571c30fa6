"""What a model that judges is asked, and what its answer comes to; for live calls and rows of batches alike. Pure.

The answer is a JSON object of one field, bound by a grammar. What does not parse is an error, and never a pass.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.contracts.graders import LabelModel, ScoreModel
from shared.errors import InvalidInput
from shared.task.item_template import render_item

ANSWER_TOKENS = 256
UNPARSABLE = "judge_unparsable"

Judge = LabelModel | ScoreModel


@dataclass(frozen=True)
class Verdict:
    """`score` as the criterion counts it (1 or 0 of a label), `unit` the same from 0 to 1, `label` of a label judge."""

    score: float
    unit: float
    passed: bool
    label: str | None = None


def judge_body(judge: Judge, values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The chat request. Raises InvalidInput where the templates do not go with the item."""
    asked = judge.sampling_params
    messages = [
        {"role": one.role, "content": render_item(one.text, values, f"{place}.input[{index}]")}
        for index, one in enumerate(judge.input)
    ]
    body: dict[str, Any] = {
        "model": judge.model,
        "messages": messages,
        "temperature": asked.temperature if asked and asked.temperature is not None else 0,
        "max_completion_tokens": (asked and asked.max_completions_tokens) or ANSWER_TOKENS,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": _schema(judge)},
        },
    }
    for name in ("top_p", "seed"):
        if asked is not None and getattr(asked, name) is not None:
            body[name] = getattr(asked, name)
    return body


def _schema(judge: Judge) -> dict[str, Any]:
    if isinstance(judge, LabelModel):
        said: dict[str, Any] = {"label": {"type": "string", "enum": list(judge.labels)}}
    else:
        low, high = judge.bounds
        said = {"score": {"type": "number", "minimum": low, "maximum": high}}
    return {
        "type": "object",
        "properties": said,
        "required": list(said),
        "additionalProperties": False,
    }


def read_verdict(judge: Judge, text: str | None) -> Verdict:
    """What the judge's answer comes to. Raises InvalidInput (`judge_unparsable`) for anything but a verdict."""
    try:
        told = json.loads(text or "")
    except (ValueError, RecursionError) as exc:
        raise _unparsable(judge, text, "it is no JSON") from exc
    if not isinstance(told, dict):
        raise _unparsable(judge, text, "it is no object")
    if isinstance(judge, LabelModel):
        label = told.get("label")
        if not isinstance(label, str) or label not in judge.labels:
            raise _unparsable(judge, text, f"label is none of {', '.join(judge.labels)}")
        passed = label in judge.passing_labels
        return Verdict(float(passed), float(passed), passed, label)
    score = told.get("score")
    low, high = judge.bounds
    if (
        isinstance(score, bool)
        or not isinstance(score, int | float)
        or not math.isfinite(score)
        or not low <= score <= high
    ):
        raise _unparsable(judge, text, f"score is no number from {low:g} to {high:g}")
    return Verdict(float(score), (score - low) / (high - low), score >= judge.threshold)


def _unparsable(judge: Judge, text: str | None, why: str) -> InvalidInput:
    shown = repr((text or "")[:160])
    return InvalidInput(f"the judge {judge.model!r} answered {shown}: {why}", code=UNPARSABLE)
