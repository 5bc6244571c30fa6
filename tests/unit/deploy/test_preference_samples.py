"""Shipped preference pairs: made with a seed, in both languages, and each worth learning from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.samples.preferences import HELD_OUT, TRAINING, pairs
from services.training.dpo.rows import Pair, read_pairs

SAMPLES = Path(__file__).parents[3] / "deploy" / "samples"
SHIPPED = {"preferences.jsonl": 2 * TRAINING, "preferences_held_out.jsonl": 2 * HELD_OUT}


def _read(name: str) -> list[Pair]:
    return read_pairs([SAMPLES / name], "train", "training_file")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_pair_can_be_trained_on(name: str) -> None:
    read = _read(name)
    assert len(read) == SHIPPED[name]
    chinese = sum(any("\u4e00" <= c <= "\u9fff" for c in pair.prompt[0].content) for pair in read)
    assert chinese == len(read) / 2


def test_no_question_is_on_both_sides() -> None:
    training, held_out = ({pair.group for pair in _read(name)} for name in SHIPPED)
    assert not training & held_out


def test_the_better_answer_is_neither_always_the_longer_nor_the_shorter_one() -> None:
    longer = [len(p.chosen.content) > len(p.rejected.content) for p in _read("preferences.jsonl")]
    assert 0.3 < sum(longer) / len(longer) < 0.7


def test_the_shipped_files_are_what_the_script_makes() -> None:
    for name, rows in zip(SHIPPED, pairs(7), strict=True):
        lines = (SAMPLES / name).read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == rows
