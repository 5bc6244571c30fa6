"""Choices depend on a row's own logits, seed and position alone."""

from __future__ import annotations

import torch

from services.inference.engine.request import Sampling
from services.inference.engine.sampler import choose, uniform

LOGITS = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0]])


def draw(logits: torch.Tensor, sampling: Sampling, count: int) -> list[int]:
    rows = [(sampling, seed, 0) for seed in range(count)]
    return [choice.token for choice in choose(logits.expand(count, -1), rows) if choice is not None]


def test_temperature_zero_is_the_highest_logit() -> None:
    choice = choose(LOGITS, [(Sampling(temperature=0), 1, 0)])[0]
    assert choice is not None
    assert choice.token == 0


def test_frequencies_follow_the_softmax() -> None:
    tokens = torch.tensor(draw(LOGITS, Sampling(temperature=0.8), 20_000))
    found = torch.bincount(tokens, minlength=5) / len(tokens)
    assert torch.allclose(found, (LOGITS[0] / 0.8).softmax(-1), atol=0.015)


def test_top_k_keeps_the_k_highest() -> None:
    assert set(draw(LOGITS, Sampling(top_k=2), 500)) == {0, 1}


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    # Softmax of the logits is about .57 .21 .13 .08 .03.
    assert set(draw(LOGITS, Sampling(top_p=0.7), 500)) == {0, 1}
    assert set(draw(LOGITS, Sampling(top_p=0.01), 100)) == {0}


def test_tokens_of_a_vocabulary_of_several_stretches_are_drawn_by_their_share() -> None:
    logits = torch.full((1, 1300), float("-inf"))
    logits[0, [3, 600, 1299]] = torch.tensor([0.5, 0.25, 0.25]).log()
    found = torch.bincount(torch.tensor(draw(logits, Sampling(), 8000)), minlength=1300) / 8000
    assert torch.allclose(found[[3, 600, 1299]], torch.tensor([0.5, 0.25, 0.25]), atol=0.02)
    assert abs(float(found.sum() - found[[3, 600, 1299]].sum())) < 1e-6


def test_limits_of_one_row_leave_the_others_alone() -> None:
    wide, narrow, both = Sampling(), Sampling(top_k=1), Sampling(top_k=3, top_p=0.6)
    rows = [(sampling, seed, 0) for seed in range(400) for sampling in (wide, narrow, both)]
    tokens = [choice.token for choice in choose(LOGITS.expand(len(rows), -1), rows) if choice is not None]
    assert set(tokens[0::3]) == {0, 1, 2, 3, 4}
    assert set(tokens[1::3]) == {0}
    # Of the three, .63 .23 .14.
    assert set(tokens[2::3]) == {0}


def test_top_p_holds_where_the_nucleus_is_most_of_a_large_vocabulary() -> None:
    flat = torch.zeros(1, 2000)
    flat[0, :10] = -20
    tokens = draw(flat + torch.arange(2000) * 1e-6, Sampling(top_p=0.5), 300)
    assert min(tokens) >= 990


def test_a_seed_gives_the_same_choice_in_any_company() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 50)
    mine = (Sampling(temperature=1.3, top_p=0.9, top_k=30), 1234, 7)
    others = [(Sampling(temperature=t), 5, 1) for t in (0.0, 0.5, 1.0, 1.5, 2.0)]
    alone = choose(logits[:1], [mine])[0]
    together = choose(logits, [mine, *others])[0]
    last = choose(logits.flip(0), [*others, mine])[-1]
    assert alone == together == last


def test_positions_and_seeds_draw_unlike_numbers_in_range() -> None:
    drawn = {uniform(seed, position) for seed in range(-5, 30) for position in range(30)}
    assert len(drawn) == 35 * 30
    assert all(0 <= number < 1 for number in drawn)


def test_a_row_that_is_not_finite_is_told_apart_from_the_others() -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1, 2] = float("nan")
    choices = choose(logits, [(Sampling(temperature=t), 1, 0) for t in (0.0, 1.0, 0.0)])
    assert choices[1] is None
    assert choices[0] == choices[2]


def test_the_logprob_is_of_the_raw_logits() -> None:
    choice = choose(LOGITS, [(Sampling(temperature=0.3, top_k=1, logprobs=True), 1, 0)])[0]
    assert choice is not None
    assert choice.logprob is not None
    assert abs(choice.logprob - float(LOGITS[0].log_softmax(-1)[0])) < 1e-6
