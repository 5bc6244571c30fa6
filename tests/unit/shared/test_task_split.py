"""Splits of traffic keep to their weights and to each caller; differences of versions are told by place."""

from __future__ import annotations

from collections import Counter

from shared.task.diff import diff
from shared.task.split import choose


def shares(weights: list[tuple[int, int]], keys: int = 20_000) -> Counter[int]:
    return Counter(choose("task-1", weights, f"user-{number}") for number in range(keys))


def test_versions_get_their_share_of_the_callers() -> None:
    found = shares([(1, 90), (2, 10)])
    # Five standard deviations of 20,000 throws.
    assert abs(found[2] - 2_000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5
    assert found[1] + found[2] == 20_000


def test_a_caller_keeps_the_version_and_a_growing_share_takes_callers_only_from_the_other() -> None:
    for number in range(2_000):
        before = choose("task-1", [(1, 90), (2, 10)], f"u{number}")
        assert before == choose("task-1", [(2, 10), (1, 90)], f"u{number}")
        after = choose("task-1", [(1, 60), (2, 40)], f"u{number}")
        assert (before, after) != (2, 1)


def test_two_tasks_split_the_same_callers_apart() -> None:
    def second(task: str) -> set[int]:
        return {n for n in range(4_000) if choose(task, [(1, 1), (2, 1)], f"u{n}") == 2}

    both = len(second("task-1") & second("task-2"))
    assert 800 < both < 1_200


def test_one_version_gets_everybody() -> None:
    assert set(shares([(3, 1)], 100)) == {3}


def test_a_difference_is_told_by_place_with_lines_for_long_texts() -> None:
    before = {
        "prompt": "one\ntwo\n",
        "decoding": {"temperature": 0.2, "seed": 1},
        "guards": {"input": {"pii": None}},
    }
    after = {
        "prompt": "one\n2\n",
        "decoding": {"temperature": 0.7, "seed": 1},
        "guards": {"input": {"pii": {"action": "mask"}}},
    }
    found = {entry["place"]: entry for entry in diff(before, after)}
    assert set(found) == {"prompt", "decoding.temperature", "guards.input.pii"}
    assert found["decoding.temperature"] == {
        "place": "decoding.temperature",
        "change": "changed",
        "before": 0.2,
        "after": 0.7,
    }
    assert found["guards.input.pii"]["change"] == "added"
    assert found["prompt"]["lines"][-2:] == ["-two", "+2"]
    assert diff(before, before) == []


def test_a_number_is_not_a_boolean() -> None:
    assert [entry["place"] for entry in diff({"a": 1}, {"a": True})] == ["a"]
