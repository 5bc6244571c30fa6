"""The label and the metadata of a generated answer."""

from __future__ import annotations

import hashlib

import pytest

from shared.contracts.inference import CompletionRequest
from shared.contracts.marking import Marking
from shared.task.marking import fitting, label_before, label_behind, labelled, metadata

VISIBLE = Marking(mode="visible", producer="Example Ltd")


@pytest.mark.parametrize(
    ("text", "label"),
    [("退款三天到账。", "（AI生成）"), ("Refunds take three days.", " (AI-generated)"), ("", "")],
)
def test_the_label_behind_a_text_is_in_its_language(text: str, label: str) -> None:
    assert label_behind(VISIBLE, text) == label


def test_the_label_before_a_text_that_is_not_known_is_in_both_languages() -> None:
    marking = Marking(mode="visible", place="start")
    assert label_before(marking) == "（AI生成 / AI-generated）\n"
    assert label_before(marking.model_copy(update={"language": "en"})) == "(AI-generated)\n"
    assert label_behind(marking, "text") == ""


@pytest.mark.parametrize("marking", [None, Marking(), Marking(mode="metadata")])
def test_what_is_not_visible_leaves_the_text_alone(marking: Marking | None) -> None:
    choices = [{"text": "a", "finish_reason": "stop"}]
    assert labelled(marking, choices) == choices
    assert label_before(marking) == ""


def test_metadata_have_the_fields_of_the_standard_and_lead_back_to_the_answer() -> None:
    told = metadata(VISIBLE, "chatcmpl-7", ["a", "b"])["heliu"]["AIGC"]
    assert told == {
        "Label": "1",
        "ContentProducer": "Example Ltd",
        "ProduceID": "chatcmpl-7",
        "ReservedCode1": hashlib.sha256(b"a\nb").hexdigest(),
        "ContentPropagator": "",
        "PropagateID": "",
        "ReservedCode2": "",
    }
    assert metadata(Marking(), "chatcmpl-7", ["a"]) == metadata(None, "chatcmpl-7", ["a"]) == {}


def test_an_answer_that_a_program_reads_has_no_label_in_it() -> None:
    asked = {
        "messages": ({"role": "user", "content": "a"},),
        "model": "m",
        "stream": False,
        "include_usage": False,
    }
    plain = CompletionRequest.model_validate(asked)
    form = CompletionRequest.model_validate({**asked, "sampling": {"grammar": "g", "form": "{}"}})
    assert fitting(VISIBLE, plain) == VISIBLE
    held = fitting(VISIBLE, form)
    assert held is not None
    assert held.mode == "metadata"
    assert fitting(Marking(), plain) is None
