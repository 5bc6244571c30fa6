"""The tasks that ship: each is one that the platform would take, and says the same in both languages."""

from __future__ import annotations

import re
from typing import Any

import pytest

from services.gateway.adaptation import ready
from shared.contracts.task import NAME, TaskSpec
from shared.task.bind import TaskVersion, bind, input_variable
from shared.task.check import check

TASKS = {task["name"]: task for task in ready.tasks()}
FIELDS = {
    *("service-reply", "marketing-mail", "ad-copy", "data-report", "customer-profile", "job-advert"),
    *("training-material", "operations-report", "financial-summary", "sentiment"),
}
HANZI = re.compile("[\u4e00-\u9fff]")


def test_there_is_one_for_each_field() -> None:
    assert set(TASKS) == FIELDS


def spec(name: str) -> TaskSpec:
    return TaskSpec.model_validate({**TASKS[name]["spec"], "model": "base"})


def rendered(name: str, language: str) -> tuple[str, str]:
    """(system, prompt) with every variable that is needed, and every one that is not."""
    made, values = spec(name), {"language": language}
    for variable, declared in made.variables.items():
        if declared.type == "string":
            values[variable] = f"<{variable}>"
        elif declared.type == "list":
            values[variable] = [f"<{variable}>", "<2>"]  # type: ignore[assignment]
    asked = bind(TaskVersion("task-1", name, 1, made), {"messages": [], "variables": values})
    system, prompt = asked.messages
    return system.content, prompt.content


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_it_is_taken_and_speaks_both_languages(name: str) -> None:
    assert NAME.fullmatch(name)
    assert set(TASKS[name]) == {"name", "description", "spec"}
    made = spec(name)
    check(made)
    chinese, english = rendered(name, "zh"), rendered(name, "en")
    for text in chinese:
        assert HANZI.search(text)
    for text in english:
        assert not HANZI.search(text)
    both = "".join(english)
    shown = {v for v, d in made.variables.items() if d.type in ("string", "list") and f"<{v}>" in both}
    told: set[str] = {v for v, d in made.variables.items() if d.type in ("string", "list")}
    assert shown == told
    assert all("\n\n\n" not in text for text in (*chinese, *english))


def test_the_ones_that_take_one_text_take_it_as_a_message() -> None:
    inputs: dict[str, Any] = {name: input_variable(spec(name)) for name in FIELDS}
    assert {name for name, variable in inputs.items() if variable is None} == {
        "marketing-mail",
        "ad-copy",
        "job-advert",
    }
    assert inputs["sentiment"] == "text"
