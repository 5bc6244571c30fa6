"""Labelled items as rows that a dataset is built from. Knows no file and no queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.data_governance.labelling.dawid_skene import fit
from services.data_governance.labelling.items import text_of
from shared.contracts.label_values import consensus, vote
from shared.contracts.labelling import Method, ProjectSpec

Value = Mapping[str, Any]


@dataclass(frozen=True)
class Labelled:
    """An item with its blind labels as (labeller, value), and what was settled."""

    id: str
    row_id: str
    data: dict[str, Any]
    extra: dict[str, Any]
    gold: dict[str, Any] | None
    final: dict[str, Any] | None
    final_by: str | None
    weak: dict[str, Any] | None
    agreement: float | None
    labels: tuple[tuple[str, dict[str, Any]], ...]


@dataclass(frozen=True)
class Chosen:
    """The one answer of an item and where it is from: `gold`, people by a method, or functions with a probability."""

    value: Value
    source: str
    probability: float | None = None


def choose(
    spec: ProjectSpec, items: Sequence[Labelled], method: Method, weak: float | None
) -> list[Chosen | None]:
    """One answer an item by `method`, None where it has none. A person's word goes before any function's, always."""
    weighed = _weighed(spec, items) if method == "dawid_skene" else {}
    return [_one(spec, item, method, weak, weighed) for item in items]


def _one(
    spec: ProjectSpec,
    item: Labelled,
    method: Method,
    weak: float | None,
    weighed: Mapping[str, tuple[str, float]],
) -> Chosen | None:
    if item.gold is not None:
        return Chosen(item.gold, "gold")
    if item.final_by == "adjudicator" and item.final is not None:
        return Chosen(item.final, "adjudicator")
    if method == "adjudicated" and item.final is not None:
        return Chosen(item.final, "agreement")
    if method == "majority" and item.labels:
        value = consensus([value for _, value in item.labels])
        return Chosen(value, "majority") if value is not None else None
    if method == "dawid_skene" and item.id in weighed:
        label, probability = weighed[item.id]
        return Chosen(_value(spec, label), "dawid_skene", probability)
    if weak is not None and not item.labels and item.weak is not None and item.weak["probability"] >= weak:
        return Chosen(_value(spec, item.weak["label"]), "functions", item.weak["probability"])
    return None


def _weighed(spec: ProjectSpec, items: Sequence[Labelled]) -> dict[str, tuple[str, float]]:
    """(label, probability) of each item that somebody labelled."""
    numbers = {label: number for number, label in enumerate(spec.choices)}
    voters: dict[str, int] = {}
    votes = [
        (at, voters.setdefault(labeller, len(voters)), numbers[vote(value)])
        for at, item in enumerate(items)
        for labeller, value in item.labels
    ]
    if not votes:
        return {}
    fitted = fit(votes, items=len(items), voters=len(voters), labels=len(numbers))
    found = {}
    for at, item in enumerate(items):
        if item.labels:
            best = int(fitted.posteriors[at].argmax())
            found[item.id] = (spec.choices[best], float(fitted.posteriors[at, best]))
    return found


def _value(spec: ProjectSpec, label: str) -> dict[str, Any]:
    return {"choice" if spec.task == "preference" else "label": label}


def row(spec: ProjectSpec, item: Labelled, chosen: Chosen) -> dict[str, Any] | None:
    """The item as a line of the file; None for a preference without one that is better.

    It keeps the id of the row that it came from, and what that row had beside.
    """
    base = {"id": item.row_id, **_content(spec, item.data)}
    said = _said(spec, item.data, chosen.value)
    if said is None:
        return None
    about = {
        "source_row_id": item.row_id,
        "label_source": chosen.source,
        "label_probability": chosen.probability,
        "label_agreement": item.agreement,
        "labellers": len(item.labels),
    }
    extra = {"extra": item.extra} if item.extra else {}
    return {**base, **said, **{key: value for key, value in about.items() if value is not None}, **extra}


def _content(spec: ProjectSpec, data: Mapping[str, Any]) -> dict[str, Any]:
    if spec.task in ("preference", "text") or (spec.task == "answer" and "messages" not in data):
        return {"prompt": text_of({key: data[key] for key in ("text", "messages") if key in data})}
    return {key: data[key] for key in ("text", "messages") if key in data}


def _said(spec: ProjectSpec, data: Mapping[str, Any], value: Value) -> dict[str, Any] | None:
    if spec.task == "preference":
        if value["choice"] == "tie":
            return None
        other = "b" if value["choice"] == "a" else "a"
        return {"chosen": data[value["choice"]], "rejected": data[other]}
    if spec.task == "spans":
        return {"spans": [{**s, "text": data["text"][s["start"] : s["end"]]} for s in value["spans"]]}
    if spec.task == "answer" and "messages" in data:
        return {"messages": [*data["messages"], {"role": "assistant", "content": value["text"]}]}
    if spec.task in ("answer", "text"):
        return {"answer": value["text"]}
    return dict(value)


def _labels(value: Value) -> list[str]:
    if "spans" in value:
        return [span["label"] for span in value["spans"]]
    return list(value["labels"]) if "labels" in value else [vote(value)]


def balance(spec: ProjectSpec, chosen: Sequence[Chosen | None]) -> dict[str, int]:
    """How often each label was chosen; of free answers nothing."""
    counts: Counter[str] = Counter()
    for one in chosen:
        if one is not None and spec.choices:
            counts.update(_labels(one.value))
    return dict(counts)
