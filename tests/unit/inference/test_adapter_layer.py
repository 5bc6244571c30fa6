"""Layers add each token's own adapter, however the tokens lie."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from services.inference.engine.adapter_layer import LoraLayer, Run, StepAdapters

IN, OUT = 6, 10
Matrices = tuple[torch.Tensor, torch.Tensor]


def matrices(rank: int) -> Matrices:
    return torch.randn(rank, IN), torch.randn(OUT, rank)


@pytest.fixture
def step() -> StepAdapters:
    return StepAdapters()


@pytest.fixture
def layer(step: StepAdapters) -> LoraLayer:
    torch.manual_seed(0)
    return LoraLayer(nn.Linear(IN, OUT), step)


@torch.inference_mode()
def check(layer: LoraLayer, held: dict[str, Matrices], names: list[str | None], counts: list[int]) -> None:
    layer.step.set(names, counts, torch.device("cpu"))
    tokens = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    x = torch.randn(1, len(tokens), IN)
    expected = layer.base(x)
    for place, name in enumerate(tokens):
        if name in held:
            a, b = held[name]
            expected[0, place] += b @ (a @ x[0, place])
    torch.testing.assert_close(layer(x), expected)


def runs(step: StepAdapters, names: list[str | None], counts: list[int]) -> tuple[Run, ...]:
    step.set(names, counts, torch.device("cpu"))
    return step.runs


def test_adapters_of_as_many_tokens_in_slots_that_follow_one_another_are_one_run(step: StepAdapters) -> None:
    for name in "abcd":
        step.slot(name)
    assert runs(step, [None, "a", "a", "b", "b", "c"], [1] * 6) == (Run(0, 2, 1, 2), Run(2, 1, 5, 1))
    assert runs(step, ["a", None, "b"], [1, 1, 1]) == (Run(0, 1, 0, 1), Run(1, 1, 2, 1))
    assert runs(step, ["a", "c"], [3, 3]) == (Run(0, 1, 0, 3), Run(2, 1, 3, 3))
    assert runs(step, ["b", "a"], [1, 1]) == (Run(1, 1, 0, 1), Run(0, 1, 1, 1))
    assert runs(step, [None, None], [1, 4]) == ()


def test_any_order_of_tokens_and_any_ranks_give_each_token_its_own(layer: LoraLayer) -> None:
    rng = random.Random(1)
    held = {name: matrices(rank) for name, rank in zip("abcde", (1, 8, 3, 19, 2), strict=True)}
    for name, pair in held.items():
        layer.install(name, pair)
    for _ in range(30):
        names = [rng.choice([None, *held]) for _ in range(rng.randint(1, 9))]
        if rng.random() < 0.5:
            names.sort(key=lambda name: name or "")
        check(layer, held, names, [rng.choice([1, 1, 2, 5]) for _ in names])


def test_an_adapter_without_this_layer_leaves_its_tokens_alone(layer: LoraLayer, step: StepAdapters) -> None:
    held = {name: matrices(4) for name in "ac"}
    for name in "abc":
        step.slot(name)
    layer.install("a", held["a"])
    layer.install("c", held["c"])
    step.slot("later")
    check(layer, held, ["a", "b", "c", "later"], [2, 2, 2, 2])
    check(layer, held, ["b", "later"], [1, 1])


def test_who_takes_a_slot_that_became_free_has_nothing_of_who_left(
    layer: LoraLayer, step: StepAdapters
) -> None:
    held = {name: matrices(8) for name in "ab"}
    for name, pair in held.items():
        layer.install(name, pair)
    layer.remove("a")
    step.forget("a")
    del held["a"]
    assert step.slot("c") == 0
    check(layer, held, ["c", "b"], [1, 1])
    held["c"] = matrices(2)
    layer.install("c", held["c"])
    check(layer, held, ["c", "b", None], [1, 1, 1])
