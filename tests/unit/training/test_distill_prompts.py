"""Prompts out of rows with and without answers, and what a batch's rows are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.training.distill.answers import figures, read_answers, training_rows
from services.training.distill.prompts import Prompt, choose, custom_id, lines
from services.training.spec import DataPaths
from shared.errors import InvalidInput


def paths(
    folder: Path, training: list[dict[str, Any]], held_out: list[dict[str, Any]] | None = None
) -> DataPaths:
    files = {}
    for name, rows in (("train", training), ("validation", held_out)):
        if rows is not None:
            files[name] = (folder / f"{name}.jsonl",)
            files[name][0].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataPaths(**files)


def chat(*contents: str) -> dict[str, Any]:
    turns = [
        {"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(contents)
    ]
    return {"messages": turns}


def test_a_prompt_ends_with_the_last_turn_of_the_user(tmp_path: Path) -> None:
    rows = [
        chat("a", "b", "c", "d"),
        chat("only"),
        {"text": "plain"},
        {"text": "t", "label": "l"},
        chat("only", "x"),
    ]
    found = choose(paths(tmp_path, rows, [chat("held", "yes")]), 100, 100, 0)
    shown = [([turn.content for turn in one.turns], one.reference) for one in found.train]
    assert shown == [(["a", "b", "c"], "d"), (["only"], None), (["plain"], None), (["t"], "l")]
    assert (found.found, found.answered) == (4, True)


def test_what_is_held_out_is_asked_of_nobody_else(tmp_path: Path) -> None:
    rows = [chat(f"q {n}", "a") for n in range(40)]
    found = choose(paths(tmp_path, rows, [chat("q 3", "a"), chat("new")]), 10, 100, 1)
    assert len(found.train) == 10
    assert not {one.key for one in found.train} & {one.key for one in found.held_out}
    assert (found.found, found.answered) == (39, False)
    alone = choose(paths(tmp_path / ".", rows), 100, 100, 1)
    assert (len(alone.train), len(alone.held_out)) == (36, 4)
    assert choose(paths(tmp_path, rows), 100, 100, 1) == alone != choose(paths(tmp_path, rows), 100, 100, 2)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"messages": [{"role": "system", "content": "x"}]}], "no user's turn"),
        ([chat("one")], "training split has no prompts"),
        ([], "training split has no prompts"),
    ],
)
def test_rows_without_a_prompt_are_refused(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as refused:
        choose(paths(tmp_path, rows), 10, 10, 0)
    assert refused.value.code == "invalid_training_file"


def test_answers_that_were_cut_count_in_figures_and_are_not_learned(tmp_path: Path) -> None:
    found = choose(paths(tmp_path, [chat(f"q {n}", "one two") for n in range(20)]), 3, 2, 0)
    asked = lines({"train": found.train, "held": found.held_out}, [("t", {"model": "m"})]).splitlines()
    assert [json.loads(line)["custom_id"] for line in asked][:2] == ["train.0.t", "train.1.t"]

    def answered(line: bytes, text: str, reason: str) -> bytes:
        body = {"choices": [{"message": {"content": text}, "finish_reason": reason}]}
        response = {"status_code": 200, "body": body}
        return json.dumps({"custom_id": json.loads(line)["custom_id"], "response": response}).encode()

    reasons = ("stop", "length", "content_filter", "stop", "length")
    answers = read_answers(answered(line, "one", reason) for line, reason in zip(asked, reasons, strict=True))
    rows, dropped = training_rows(found.train, answers, "t")
    assert len(rows.splitlines()) == 1
    assert dropped == {"over_long": 1, "refused": 1}
    said = [answers.texts.get(custom_id("held", place, "t")) for place in range(2)]
    told = figures(found.held_out, said, said)
    assert told["token_f1"] == pytest.approx(2 / 3)
    assert (told["agreement"], told["unanswered"]) == (1.0, 0)


def test_rows_without_answers_are_measured_against_the_teacher_alone() -> None:
    prompts = [Prompt((), None), Prompt((), None)]
    told = figures(prompts, ["a b", None], ["a", "c"])
    assert "token_f1" not in told
    assert told["agreement"] == pytest.approx(1 / 3)
    assert told["unanswered"] == 1
