"""One label as a person gives it: checked against its project, compared with another's, settled among several. Pure.

A value is `{"label": x}`, `{"labels": [x, ...]}`, `{"choice": "a" | "b" | "tie"}`, `{"text": ...}` or
`{"spans": [{"start", "end", "label"}, ...]}`; places in a text count code points.
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from shared.contracts.labelling import ProjectSpec
from shared.errors import InvalidInput

Value = Mapping[str, Any]
MAX_TEXT = 100_000
MAX_SPANS = 2_000


def check_value(
    spec: ProjectSpec, data: Mapping[str, Any], value: Any, param: str = "value"
) -> dict[str, Any]:
    """The value in its one canonical form. Raises InvalidInput that names what is wrong, and what would be right."""
    key = _key(spec)
    if not isinstance(value, dict) or set(value) != {key}:
        got = ", ".join(sorted(map(str, value)))[:80] if isinstance(value, dict) else type(value).__name__
        raise InvalidInput(
            f'{param} must be an object {{"{key}": ...}}, got {got or "an empty one"}', param=param
        )
    given, place = value[key], f"{param}.{key}"
    if key == "label":
        return {key: _choice(spec.labels, given, place)}
    if key == "choice":
        return {key: _choice(spec.choices, given, place)}
    if key == "labels":
        return {key: _several(spec.labels, given, place)}
    if key == "text":
        return {key: _text(given, place)}
    return {key: _spans(spec, str(data.get("text", "")), given, place)}


def similarity(left: Value, right: Value) -> float:
    """0 to 1: equality of one label, Jaccard of several, F1 of exact spans, equality of texts but for form."""
    if "labels" in left:
        one, two = set(left["labels"]), set(right["labels"])
        return len(one & two) / len(one | two) if one | two else 1.0
    if "spans" in left:
        return span_f1(left["spans"], right["spans"])
    return float(vote(left) == vote(right))


def span_f1(left: Sequence[Value], right: Sequence[Value]) -> float:
    """2 |both| / (|left| + |right|) over exact (start, end, label); 1 where neither has any."""
    one, two = ({(s["start"], s["end"], s["label"]) for s in spans} for spans in (left, right))
    return 2 * len(one & two) / (len(one) + len(two)) if one or two else 1.0


def vote(value: Value) -> str:
    """What equal values share: the label, or the text without case, width and spacing."""
    if "text" in value:
        return " ".join(unicodedata.normalize("NFKC", value["text"]).casefold().split())
    found = value.get("label", value.get("choice"))
    return found if isinstance(found, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Settled:
    """What came of an item's blind labels: how far they agree, and the answer, or None where somebody must decide."""

    agreement: float
    value: dict[str, Any] | None


def settle(values: Sequence[Value], threshold: float) -> Settled:
    """One label stands; of several, the consensus does where they agree by `threshold` or more.

    They agree by the share of the largest vote, or where an answer has parts by the mean similarity of pairs.
    """
    if len(values) == 1:
        return Settled(1.0, dict(values[0]))
    if "labels" in values[0] or "spans" in values[0]:
        pairs = [similarity(a, b) for a, b in combinations(values, 2)]
        agreement = sum(pairs) / len(pairs)
    else:
        agreement = Counter(map(vote, values)).most_common(1)[0][1] / len(values)
    return Settled(agreement, consensus(values) if agreement >= threshold - 1e-9 else None)


def outcome(values: Sequence[Value], needed: int, threshold: float) -> dict[str, Any] | None:
    """The columns of an item that its blind labels settle; None while some of the `needed` are missing."""
    if len(values) < needed:
        return None
    settled = settle(values, threshold)
    agreed = settled.value is not None
    return {
        "agreement": settled.agreement,
        "state": "done" if agreed else "adjudication",
        "final": settled.value,
        "final_by": "agreement" if agreed else None,
    }


def consensus(values: Sequence[Value]) -> dict[str, Any] | None:
    """The vote of most, None for a tie; of answers with parts, the parts that more than half have."""
    first = values[0]
    if "labels" in first:
        counts = Counter(label for value in values for label in value["labels"])
        return {"labels": [label for label in counts if 2 * counts[label] > len(values)]}
    if "spans" in first:
        spans = Counter((s["start"], s["end"], s["label"]) for value in values for s in value["spans"])
        kept = sorted(span for span in spans if 2 * spans[span] > len(values))
        return {"spans": [{"start": start, "end": end, "label": label} for start, end, label in kept]}
    ranked = Counter(map(vote, values)).most_common(2)
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        return None
    return next(dict(value) for value in values if vote(value) == ranked[0][0])


def _key(spec: ProjectSpec) -> str:
    if spec.task == "classification":
        return "labels" if spec.multiple else "label"
    return {"preference": "choice", "spans": "spans"}.get(spec.task, "text")


def _choice(choices: Sequence[str], given: Any, place: str) -> str:
    if isinstance(given, str) and given in choices:
        return given
    near = difflib.get_close_matches(str(given), choices, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; it is one of {', '.join(choices[:20])}"
    raise InvalidInput(f"{place}: {str(given)[:80]!r} is no label of this project{hint}", param=place)


def _several(choices: Sequence[str], given: Any, place: str) -> list[str]:
    if not isinstance(given, list):
        raise InvalidInput(f"{place} must be a list of labels", param=place)
    named = {_choice(choices, one, f"{place}[{at}]") for at, one in enumerate(given)}
    return [label for label in choices if label in named]


def _text(given: Any, place: str) -> str:
    if not isinstance(given, str) or not given.strip() or len(given) > MAX_TEXT:
        raise InvalidInput(
            f"{place} must be a text of 1 to {MAX_TEXT} characters that is not blank", param=place
        )
    return given


def _spans(spec: ProjectSpec, text: str, given: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(given, list) or len(given) > MAX_SPANS:
        raise InvalidInput(f"{place} must be a list of at most {MAX_SPANS} spans", param=place)
    found = {_span(spec, len(text), span, f"{place}[{at}]") for at, span in enumerate(given)}
    return [{"start": start, "end": end, "label": label} for start, end, label in sorted(found)]


def _span(spec: ProjectSpec, length: int, span: Any, place: str) -> tuple[int, int, str]:
    if not isinstance(span, dict) or set(span) != {"start", "end", "label"}:
        raise InvalidInput(f'{place} must be {{"start": ..., "end": ..., "label": ...}}', param=place)
    start, end = span["start"], span["end"]
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
        raise InvalidInput(
            f"{place}: {str(start)[:20]} to {str(end)[:20]} lies not within the text, which has {length} characters",
            param=place,
        )
    return start, end, _choice(spec.labels, span["label"], f"{place}.label")
