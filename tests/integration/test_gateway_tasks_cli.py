"""`heliu tasks` against a real gateway and the echo worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.cli.task_values import values
from shared.errors import HeliuError, InvalidInput
from tests.integration.gateway_app import running_gateway
from tests.integration.test_gateway_cli import Heliu
from tests.integration.test_gateway_tasks import echo_worker

TASK = """
name: greet
description: Says hello
spec:
  model: echo
  prompt: "{{ greeting }} {{ who|join(' and ') }}{% if loud %}!{% endif %}"
  variables:
    greeting: {type: string}
    who: {type: list, required: false, default: [all]}
    loud: {type: boolean, default: false}
"""


@pytest.fixture
def heliu(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Heliu]:
    with running_gateway(database_url, redis_url, tmp_path / "home") as gateway:
        gateway.add_model("echo")
        yield Heliu(gateway, monkeypatch)


def test_a_task_is_added_run_versioned_routed_and_removed(heliu: Heliu, tmp_path: Path) -> None:
    file = tmp_path / "greet.yml"
    file.write_text(TASK)
    assert heliu.run("tasks", "add", str(file)).strip() == "task:greet"
    file.write_text(TASK.replace('"{{ greeting }}', '"now {{ greeting }}'))
    assert heliu.run("tasks", "add", str(file)).strip() == "task:greet@2"
    with echo_worker(heliu.gateway):
        said = heliu.run(
            "tasks", "run", "greet", "--set", "greeting=hi", "--set", "who=you", "--set", "who=me"
        )
        assert said == "hi you and me\n"
        streamed = heliu.run("tasks", "run", "greet@2", "hey", "--set", "loud=yes", "--stream")
        assert streamed == "now hey all!\n"
        assert heliu.json("tasks", "run", "greet", "hey")["model"] == "task:greet@1"
        with pytest.raises(HeliuError, match="variable 'greeting' is missing"):
            heliu.run("tasks", "run", "greet")
    changes = heliu.json("tasks", "diff", "greet")["changes"]
    assert [change["place"] for change in changes] == ["prompt"]
    assert "now {{ greeting }}" in heliu.run("tasks", "diff", "greet", "1", "2")
    assert "1: 0.9, 2: 0.1" in heliu.run("tasks", "split", "greet", "1=90", "2=10")
    assert heliu.json("tasks", "activate", "greet", "2")["active_version"] == 2
    assert "1: 0.9, 2: 0.1" in heliu.run("tasks", "rollback", "greet")
    shown = {row["version"]: row["share"] for row in heliu.json("tasks", "versions", "greet")["data"]}
    assert shown == {1: 0.9, 2: 0.1}
    assert "90.0%" in heliu.run("tasks", "versions", "greet")
    assert "now {{ greeting }}" in heliu.run("tasks", "show", "greet@2")
    assert heliu.json("tasks", "show", "greet")["shown_version"]["version"] == 1
    assert "greet" in heliu.run("tasks", "list")
    assert heliu.json("tasks", "remove", "greet")["deleted"] is True
    with pytest.raises(HeliuError, match="does not exist"):
        heliu.run("tasks", "show", "greet")


def test_the_ready_tasks_are_installed_once(heliu: Heliu) -> None:
    first = heliu.json("tasks", "install-ready", "--model", "echo", "--only", "sentiment")["data"]
    assert first == [{"name": "sentiment", "result": "made"}]
    rest = heliu.json("tasks", "install-ready", "--model", "echo")["data"]
    assert {row["result"] for row in rest if row["name"] != "sentiment"} == {"made"}
    assert {row["result"] for row in rest if row["name"] == "sentiment"} == {"there already"}
    with pytest.raises(HeliuError, match="no ready task is called 'x'"):
        heliu.run("tasks", "install-ready", "--model", "echo", "--only", "x")
    with pytest.raises(HeliuError, match="did you mean 'echo'"):
        heliu.run("tasks", "install-ready", "--model", "eco")


def test_a_file_that_is_no_task_is_told_as_such(heliu: Heliu, tmp_path: Path) -> None:
    file = tmp_path / "task.yml"
    for content, said in (
        ("a: [", "neither YAML nor JSON"),
        ("- a", "must hold name"),
        ("spec: {}", "has no name"),
        (json.dumps({"name": "x", "spec": {"model": "echo", "prompt": "{{ a }}"}}), "no variable declares"),
    ):
        file.write_text(content)
        with pytest.raises(HeliuError, match=said):
            heliu.run("tasks", "add", str(file))
    with pytest.raises(HeliuError, match="cannot be read"):
        heliu.run("tasks", "add", str(tmp_path / "none.yml"))


DECLARED: dict[str, Any] = {
    "text": {},
    "count": {"type": "integer"},
    "share": {"type": "number"},
    "loud": {"type": "boolean"},
    "items": {"type": "list"},
}


def test_values_of_the_command_line_get_their_types(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("来自文件")
    given = ["count=3", "share=0.5", "loud=no", 'items=["a", "b"]', "items=c", f"text=@{tmp_path}/a.txt"]
    assert values(DECLARED, given) == {
        "count": 3,
        "share": 0.5,
        "loud": False,
        "items": ["a", "b", "c"],
        "text": "来自文件",
    }
    assert values(DECLARED, ["text=@@me=you"]) == {"text": "@me=you"}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("text", "no NAME=VALUE"),
        ("txt=a", "did you mean 'text'"),
        ("count=3.5", "whole number"),
        ("share=x", "a number"),
        ("loud=maybe", "true or false"),
        ("items=[1]", "list of strings"),
        ("text=@/nowhere", "cannot be read"),
    ],
)
def test_a_wrong_value_of_the_command_line_is_told(word: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        values(DECLARED, [word])
