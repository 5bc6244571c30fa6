"""Templates over items: dotted keys, JSON for what is no text, and nothing behind the values."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import InvalidInput
from shared.task.item_template import check_item_template, check_reference, look_up, render_item

VALUES: dict[str, Any] = {
    "item": {"q": "hi", "keys": 3, "yes": True, "list": [1, "x"], "deep": {"none": None}, "问题": "好"},
    "sample": {"output_text": "T", "output_json": {"x": [2]}},
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{item.q}} {{ sample.output_text }}", "hi T"),
        ("{{item.keys}}", "3"),
        ("{{item.yes}} {{item.list}} {{item.deep.none}}", 'true [1, "x"] null'),
        ("{{item.list[1]}} {{item.list.0}} {{item['q']}} {{item.问题}}", "x 1 hi 好"),
        ("{{sample.output_json.x[0]}}", "2"),
        ("{% for one in item.list %}{{loop.index}}{{one}} {% endfor %}", "11 2x "),
        ("{{item.gone | default('none')}} {{item.q | upper}}", "none HI"),
        ("{a: 1.5, b: item.q}", "{a: 1.5, b: item.q}"),
    ],
)
def test_a_template_shows_what_its_dotted_names_stand_for(source: str, text: str) -> None:
    check_item_template(source, "input", fields=None, sample=True)
    assert render_item(source, VALUES, "input") == text


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{item.gone}}", "there is no 'gone'; there is q, keys"),
        ("{{item.items}}", "there is no 'items'"),
        ("{{item.q.__class__}}", "__class__"),
        ("{{item.deep.none.more}}", "more"),
    ],
)
def test_what_an_item_does_not_have_is_told_by_name(source: str, words: str) -> None:
    check_item_template(source, "input", fields=None, sample=True)
    with pytest.raises(InvalidInput, match="input") as told:
        render_item(source, VALUES, "input")
    assert words in told.value.message


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{item.quest}}", "did you mean item.question?"),
        ("{{sample.output}}", "did you mean sample.output_text?"),
        ("{{sample.x}}", "there are output_text, output_json"),
        ("{{other.x}}", "'other'"),
        ("{{item.question", "is no template"),
        ("{{item.question.upper()}}", "may call nothing"),
        ("{% set x = 1 %}", "may not use assign"),
    ],
)
def test_a_template_that_could_not_be_rendered_is_refused_when_it_is_made(source: str, words: str) -> None:
    with pytest.raises(InvalidInput) as told:
        check_item_template(source, "criteria[0].input", fields=["question", "answer"], sample=True)
    assert words in told.value.message
    assert told.value.param == "criteria[0].input"


def test_samples_are_refused_where_there_are_none() -> None:
    with pytest.raises(InvalidInput, match="include_sample_schema"):
        check_item_template("{{sample.output_text}}", "input", fields=["a"], sample=False)
    check_item_template("{{item.anything}}", "input", fields=["a"], sample=False, open_fields=True)


def test_a_reference_leads_to_the_value_itself() -> None:
    check_reference("item.deep.none", "place", fields=["deep"])
    assert look_up("item.list.1", VALUES["item"], "place") == "x"
    assert look_up("item.deep", VALUES["item"], "place") == {"none": None}
    with pytest.raises(InvalidInput, match=r"the item has no item\.deep\.x"):
        look_up("item.deep.x", VALUES["item"], "place")
    for wrong in ("q", "item", "item.", "sample.x"):
        with pytest.raises(InvalidInput, match=r"write item\.NAME"):
            check_reference(wrong, "place", fields=None)
