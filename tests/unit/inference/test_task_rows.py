"""Rows of a batch that name a task: resolved by what stood when the batch was accepted, guarded, and shared out."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from services.inference.answers import refusal
from services.inference.batch_input import parse_row, plan
from services.inference.task_rows import BatchTasks
from shared.contracts.answers import CHAT
from shared.contracts.inference import CompletionRequest, ModelRef
from shared.contracts.task import Guard, TaskRoute
from shared.task.guards import guard_choices

MODELS = {"m": ModelRef(name="m", base_artifact="a")}

SPECS: dict[tuple[str, int], dict[str, Any]] = {
    ("task-1", number): {
        "model": model,
        "prompt": f"{number}: {{{{ text }}}}",
        "variables": {"text": {}},
        "guards": {"input": {"pii": {"action": "refuse"}}},
    }
    for number, model in ((1, "m"), (2, "m"), (3, "gone"))
}


def tasks(*weights: tuple[int, int]) -> tuple[BatchTasks, list[tuple[str, int]]]:
    asked = []

    def find(task_id: str, version: int) -> dict[str, Any] | None:
        asked.append((task_id, version))
        return SPECS.get((task_id, version))

    return BatchTasks("batch_1", {"sort": TaskRoute(id="task-1", weights=weights or ((1, 1),))}, find), asked


def line(custom_id: str = "a", model: str = "task:sort", **body: Any) -> bytes:
    given = {"model": model, "variables": {"text": "x"}, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": given}).encode()


def prompt(content: bytes, named: BatchTasks) -> str:
    request = parse_row(content, CHAT, named).request
    assert isinstance(request, CompletionRequest)
    return request.messages[-1].content


def test_a_row_is_bound_to_the_version_that_stood_or_to_the_one_that_it_names() -> None:
    named, asked = tasks()
    row = parse_row(line(), CHAT, named)
    assert (row.request.model, row.task and row.task.label, row.refused) == ("m", "sort@1", None)
    assert prompt(line(), named) == "1: x"
    assert prompt(line(model="task:sort@2"), named) == "2: x"
    assert asked == [("task-1", 1), ("task-1", 2)]


def test_a_row_gets_the_same_version_each_time_by_user_or_by_custom_id() -> None:
    (first, _), (second, _) = tasks((1, 1), (2, 1)), tasks((1, 1), (2, 1))
    rows = [line(f"r{number}") for number in range(40)]
    got = [prompt(row, first) for row in rows]
    assert got == [prompt(row, second) for row in rows]
    assert set(got) == {"1: x", "2: x"}
    assert len({prompt(line(f"r{number}", user="u"), first) for number in range(20)}) == 1


def test_a_guard_refuses_its_row_and_not_the_batch() -> None:
    named, _ = tasks()
    content = line("bad", variables={"text": "电话13800138000"})
    row = parse_row(content, CHAT, named)
    assert row.refused is not None
    body = refusal(row.refused)["error"]
    assert (body["code"], body["param"]) == ("content_filter", "body.variables.text")
    planned = plan(io.BytesIO(content + b"\n" + line("good")), CHAT, MODELS, 10, tasks=named)
    assert (planned.errors, planned.rows, planned.tasks, planned.models) == ((), 2, ("sort",), ("m",))


@pytest.mark.parametrize(
    ("row", "code", "param"),
    [
        (line(model="task:srot"), "model_not_found", "body.model"),
        (line(model="task:sort@9"), "model_not_found", "body.model"),
        (line(model="task:"), "invalid_value", "body.model"),
        (line(variables={"txt": "x"}), "unknown_parameter", "body.variables.txt"),
        (line(stream=True), "invalid_value", "body.stream"),
        (line(model="task:sort@3"), "model_not_found", "body.model"),
    ],
)
def test_a_wrong_row_is_a_line_error_by_its_place(row: bytes, code: str, param: str) -> None:
    named, _ = tasks()
    (error,) = plan(io.BytesIO(row), CHAT, MODELS, 10, tasks=named).errors
    assert (error.line, error.code, error.param) == (1, code, param)


def test_whole_answers_are_guarded_choice_by_choice() -> None:
    guard = Guard.model_validate({"pii": {"action": "mask"}, "blocked": ["secret"]})
    choices = [
        {"text": "call 13800138000", "finish_reason": "stop", "logprobs": None},
        {"text": "a secret", "finish_reason": "length"},
    ]
    shown, refused = guard_choices(guard, choices)
    assert shown[0] == {"text": "call [PHONE]", "finish_reason": "stop", "logprobs": None}
    assert shown[1]["finish_reason"] == "content_filter"
    assert "secret" not in shown[1]["text"]
    assert refused == ["output.blocked"]
