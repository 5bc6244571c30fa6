"""Passages of a task: how they stand in a prompt, and which of them an answer cites."""

from __future__ import annotations

from shared.contracts.retrieval import Passage
from shared.contracts.task import TaskSpec
from shared.task.bind import TaskVersion, bind, question
from shared.task.citations import MAX_CHARS, sources_of


def passage(number: int, text: str = "text") -> Passage:
    return Passage(file_id=f"file-{number}", filename=f"{number}.txt", score=0.5, text=text)


SPEC = TaskSpec.model_validate(
    {
        "model": "base",
        "prompt": "{{ passages }}\n{{ q }}",
        "variables": {"q": {}, "shop": {"default": "south"}},
        "retrieval": {"vector_store": "vs_1", "query": "{{ shop }} {{ q }}"},
    }
)
TASK = TaskVersion("task-1", "help", 1, SPEC)
BODY = {"model": "task:help", "messages": [{"role": "user", "content": "opening hours?"}]}


def test_the_question_is_the_template_over_the_variables() -> None:
    assert question(TASK, BODY) == "south opening hours?"


def test_passages_stand_numbered_in_the_prompt() -> None:
    asked = bind(TASK, BODY, sources_of("vs_1", [passage(1, "nine to six"), passage(2, "closed on Sunday")]))
    assert asked.messages[-1].content == "[1] nine to six\n\n[2] closed on Sunday\nopening hours?"


def test_an_answer_cites_what_it_names_once_and_in_its_order() -> None:
    sources = sources_of("vs_1", [passage(1), passage(2), passage(3)])
    cited = sources.annotations("Yes [2], and［1］, and 【2】; not [7] or [0].")
    assert [(one["file_id"], one["index"]) for one in cited] == [("file-2", 1), ("file-1", 0)]
    assert {one["type"] for one in cited} == {"file_citation"}


def test_passages_that_do_not_fit_are_left_out_and_the_first_is_cut() -> None:
    sources = sources_of("vs_1", [passage(1, "a" * (MAX_CHARS + 5)), passage(2)])
    assert [len(one.text) for one in sources.passages] == [MAX_CHARS]
    assert len(sources_of("vs_1", [passage(1), passage(2)]).passages) == 2
