"""Label Studio's JSON and source rows, broken in every way: refused in words, and never anything else."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from services.data_governance.labelling import export, label_studio
from services.data_governance.labelling.export import Chosen, Labelled
from services.data_governance.labelling.items import SourceRow, make_item
from shared.contracts.label_values import check_value
from shared.contracts.labelling import ProjectSpec
from shared.errors import InvalidInput

JUNK: tuple[Any, ...] = (None, 0, -1, 1.5, True, "", "x", [], {}, [[]], {"x": 1}, "😀", 10**30)
SPECS = {
    "classification": ProjectSpec(task="classification", labels=("a", "b")),
    "multiple": ProjectSpec(task="classification", labels=("a", "b"), multiple=True),
    "spans": ProjectSpec(task="spans", labels=("a", "b")),
    "preference": ProjectSpec(task="preference"),
    "answer": ProjectSpec(task="answer"),
}
VALUES: dict[str, dict[str, Any]] = {
    "classification": {"label": "a"},
    "multiple": {"labels": ["a", "b"]},
    "spans": {"spans": [{"start": 1, "end": 3, "label": "b"}]},
    "preference": {"choice": "b"},
    "answer": {"text": "so"},
}


def labelled(kind: str, **values: Any) -> Labelled:
    data = {"text": "😀ab c", **({"a": "x", "b": "y"} if kind == "preference" else {})}
    given = {"id": "item-1", "row_id": "row-1", "data": data, "extra": {"k": 1}, "gold": None, "final": None}
    given |= {"final_by": None, "weak": None, "agreement": None, "labels": (("li", VALUES[kind]),)}
    return Labelled(**{**given, **values})


def broken(rng: random.Random, value: Any) -> Any:
    """A copy with one place of it replaced by something else, or gone."""
    whole = copy.deepcopy({"it": value})
    places: list[tuple[Any, Any]] = []
    stack: list[Any] = [whole]
    while stack:
        one = stack.pop()
        keys = list(one) if isinstance(one, dict) else list(range(len(one)))
        places += [(one, key) for key in keys]
        stack += [one[key] for key in keys if isinstance(one[key], dict | list)]
    holder, key = rng.choice(places)
    if rng.random() < 0.3 and holder is not whole:
        del holder[key]
    else:
        holder[key] = copy.deepcopy(rng.choice(JUNK))
    return whole["it"]


@pytest.mark.parametrize("kind", SPECS)
def test_a_broken_task_of_label_studio_is_refused_or_taken_and_never_breaks_the_import(kind: str) -> None:
    rng = random.Random(kind)
    whole = label_studio.task(SPECS[kind], 1, labelled(kind, gold=VALUES[kind]))
    refused = 0
    for _ in range(400):
        one = broken(rng, whole)
        try:
            task = label_studio.annotated(SPECS[kind], one, "[0]", "file-1")
            item = make_item("lab-1", SPECS[kind], task.row)
            for _, value in task.labels:
                check_value(SPECS[kind], item.data, value)
        except InvalidInput:
            refused += 1
    assert 40 < refused < 400


@pytest.mark.parametrize("kind", SPECS)
def test_a_broken_value_is_refused_with_its_place(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(300):
        value = broken(rng, VALUES[kind])
        found, place = None, "value"
        try:
            found = check_value(SPECS[kind], {"text": "😀ab c"}, value)
        except InvalidInput as exc:
            place = exc.param or ""
        assert place.startswith("value")
        assert found is None or check_value(SPECS[kind], {"text": "😀ab c"}, found) == found


def test_places_leave_in_utf16_units_and_come_back_in_code_points() -> None:
    spec, item = SPECS["spans"], labelled("spans")
    task = label_studio.task(spec, 1, item)
    region = task["annotations"][0]["result"][0]["value"]
    assert (region["start"], region["end"], region["text"]) == (2, 4, "ab")
    back = label_studio.annotated(spec, task, "[0]", "file-1")
    assert back.labels == [("li", VALUES["spans"])]


def test_labels_with_braces_and_angles_fit_into_the_interface() -> None:
    spec = ProjectSpec(task="classification", labels=("{tag}", '<a "b">'))
    assert "{tag}" in label_studio.config(spec)
    assert "<a" not in label_studio.config(spec)


def test_known_answers_and_adjudicators_go_before_votes_and_people_before_functions() -> None:
    spec = SPECS["classification"]
    weak = {"label": "b", "probability": 0.99}
    items = [
        labelled("classification", gold={"label": "b"}, weak=weak),
        labelled("classification", final={"label": "b"}, final_by="adjudicator"),
        labelled("classification", id="item-2", weak=weak),
        labelled("classification", id="item-3", labels=(), weak=weak),
        labelled("classification", id="item-4", labels=()),
    ]
    for method in ("majority", "dawid_skene"):
        chosen = export.choose(spec, items, method, 0.9)  # type: ignore[arg-type]
        assert [one and one.source for one in chosen] == ["gold", "adjudicator", method, "functions", None]
        assert [one and one.value["label"] for one in chosen] == ["b", "b", "a", "b", None]
    assert export.choose(spec, items[3:4], "majority", 0.995) == [None]


def test_a_conversation_to_answer_shows_its_last_answer_as_a_draft_and_leaves_with_the_new_one() -> None:
    turns = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so"}]
    item = make_item("lab-1", SPECS["answer"], SourceRow("row-1", None, turns, {}))
    assert item.data == {"messages": turns[:1], "draft": "so"}
    row = export.row(
        SPECS["answer"], labelled("answer", data=item.data), Chosen({"text": "因为"}, "agreement")
    )
    assert row is not None
    assert row["messages"] == [turns[0], {"role": "assistant", "content": "因为"}]


@pytest.mark.parametrize("text", ["half \ud800 of a pair", "a \x00 within"])
def test_what_the_database_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="holds"):
        make_item("lab-1", SPECS["classification"], SourceRow("row-1", text, None, {}))
    with pytest.raises(InvalidInput, match="holds"):
        make_item("lab-1", SPECS["classification"], SourceRow("row-1", "fine", None, {"beside": text}))
