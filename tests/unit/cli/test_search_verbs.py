"""What `heliu search create` makes of its words and its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.cli.searches import _body, _line, _varied
from shared.errors import InvalidInput


@pytest.mark.parametrize(
    ("word", "made"),
    [
        ("n=2..8", {"type": "int", "low": 2, "high": 8}),
        ("n=1..64:log", {"type": "int", "low": 1, "high": 64, "log": True}),
        ("n=1e-5..1e-2:log", {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}),
        ("n=0..0.5", {"type": "float", "low": 0.0, "high": 0.5}),
        ("n=-1..1", {"type": "int", "low": -1, "high": 1}),
        ("n=focal,cross_entropy", {"type": "categorical", "choices": ["focal", "cross_entropy"]}),
        ("n=1,true,null,a", {"type": "categorical", "choices": [1, True, None, "a"]}),
    ],
)
def test_a_word_is_a_range_or_choices(word: str, made: dict[str, Any]) -> None:
    assert _varied(word) == ("n", made)


@pytest.mark.parametrize("word", ["n", "n=", "n=a..b", "n=1..", "n=1..2:lin", "n=true..2"])
def test_a_word_that_is_neither_is_refused(word: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        _varied(word)
    assert refused.value.param == "--vary"


def test_a_file_is_a_search_or_the_job_of_one(tmp_path: Path) -> None:
    file = tmp_path / "one.yml"
    file.write_text("type: head\nname: n\n")
    assert _body(file) == {"job": {"type": "head", "name": "n"}, "space": {}}
    file.write_text("job: {type: head}\nspace:\n  lr: {type: float, low: 1e-5, high: 1e-2}\n")
    assert _body(file)["space"] == {"lr": {"type": "float", "low": 1e-5, "high": 1e-2}}


@pytest.mark.parametrize("content", ["[1]", "{", "job: {}\nspace: [1]", "\x00"])
def test_a_file_that_is_no_body_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "one.yml"
    file.write_text(content)
    with pytest.raises(InvalidInput):
        _body(file)
    with pytest.raises(InvalidInput, match="cannot be read"):
        _body(tmp_path / "none.yml")


def test_a_line_tells_how_far_a_search_is() -> None:
    counts = {"total": 5, "complete": 2, "pruned": 1, "failed": 0, "cancelled": 0, "running": 2}
    found = {
        "status": "running",
        "trials_wanted": 12,
        "counts": counts,
        "objective": {"metric": "valid_loss"},
        "best": {"value": 0.25},
    }
    assert _line(found) == ("running: 3 of 12 trials, best valid_loss 0.25 (2 complete, 1 pruned, 2 running)")
