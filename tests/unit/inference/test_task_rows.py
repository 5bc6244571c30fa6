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
from shared.contracts.model_registry import RegisteredRoute, ReleaseUsed
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


def registered_rows(**routes: RegisteredRoute) -> BatchTasks:
    return BatchTasks("batch_1", {"sort": TaskRoute(id="task-1", weights=((9, 1),))}, on_name, None, routes)


def on_name(task_id: str, version: int) -> dict[str, Any] | None:
    return {**SPECS["task-1", 1], "model": "registry:service"}


SERVICE = RegisteredRoute(id="reg-1", weights=((2, 9_500), (3, 500)), models=((2, "m"), (3, "n"), (4, "o")))


def asks(model: str, custom_id: str = "a", **body: Any) -> bytes:
    given = {"model": model, "messages": [{"role": "user", "content": "x"}], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": given}).encode()


def test_a_row_for_a_registered_name_gets_the_version_that_its_user_gets() -> None:
    named = registered_rows(service=SERVICE)
    rows = [parse_row(asks("registry:service", f"r{n}"), CHAT, named) for n in range(400)]
    again = [parse_row(asks("registry:service", f"r{n}"), CHAT, named) for n in range(400)]
    assert rows == again
    got = [row.release.version for row in rows if row.release]
    assert {row.request.model for row in rows} == {"m", "n"}
    assert 5 < got.count(3) < 45
    same = {parse_row(asks("registry:service", f"r{n}", user="ann"), CHAT, named).release for n in range(20)}
    assert len(same) == 1
    pinned = parse_row(asks("registry:service@4"), CHAT, named)
    assert (pinned.request.model, pinned.release) == ("o", ReleaseUsed(name="service", version=4))
    assert named.used_registered == {"service"}


def test_a_task_on_a_registered_name_runs_on_its_version() -> None:
    row = parse_row(line(), CHAT, registered_rows(service=SERVICE.model_copy(update={"weights": ((4, 1),)})))
    assert (row.task and row.task.label, row.request.model) == ("sort@9", "o")
    assert row.release == ReleaseUsed(name="service", version=4)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("registry:servise", "did you mean 'service'"),
        ("registry:empty", "had no version in production"),
        ("registry:service@1", "no version 1 that is not archived"),
        ("registry:service@x", "is no registered model"),
    ],
)
def test_a_row_for_a_version_that_is_not_there_is_told_in_its_line(model: str, said: str) -> None:
    empty = RegisteredRoute(id="reg-2", weights=(), models=((1, "m"),))
    source = io.BytesIO(asks(model) + b"\n")
    planned = plan(source, CHAT, MODELS, 10, registered_rows(service=SERVICE, empty=empty))
    (error,) = planned.errors
    assert said in error.message
    assert error.param == "body.model"


def test_a_plan_names_the_models_and_the_names_that_its_rows_came_to() -> None:
    source = io.BytesIO(asks("registry:service@2") + b"\n")
    planned = plan(source, CHAT, MODELS, 10, registered_rows(service=SERVICE))
    assert (planned.errors, planned.models, planned.registered) == ((), ("m",), ("service",))
