"""Choices depend on a row's own logits, seed and position alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from services.inference.engine.request import Sampling
from services.inference.engine.sampler import Pick, choose, choose_all, uniform

LOGITS = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0]])


def draw(logits: torch.Tensor, sampling: Sampling, count: int) -> list[int]:
    rows = [Pick(sampling, seed, 0) for seed in range(count)]
    return [choice.token for choice in choose(logits.repeat(count, 1), rows) if choice is not None]


def test_temperature_zero_is_the_highest_logit() -> None:
    choice = choose(LOGITS.clone(), [Pick(Sampling(temperature=0), 1, 0)])[0]
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
    rows = [Pick(sampling, seed, 0) for seed in range(400) for sampling in (wide, narrow, both)]
    tokens = [choice.token for choice in choose(LOGITS.repeat(len(rows), 1), rows) if choice is not None]
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
    mine = Pick(Sampling(temperature=1.3, top_p=0.9, top_k=30), 1234, 7)
    others = [Pick(Sampling(temperature=t), 5, 1) for t in (0.0, 0.5, 1.0, 1.5, 2.0)]
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
    choices = choose(logits, [Pick(Sampling(temperature=t), 1, 0) for t in (0.0, 1.0, 0.0)])
    assert choices[1] is None
    assert choices[0] == choices[2]


def test_the_logprob_is_of_the_raw_logits() -> None:
    choice = choose(LOGITS.clone(), [Pick(Sampling(temperature=0.3, top_k=1, logprobs=True), 1, 0)])[0]
    assert choice is not None
    assert choice.logprob is not None
    assert abs(choice.logprob - float(LOGITS[0].log_softmax(-1)[0])) < 1e-6


def greedy(logits: torch.Tensor, **pick: Any) -> int:
    sampling = Sampling(temperature=0, **pick.pop("sampling", {}))
    choice = choose(logits.clone(), [Pick(sampling, 1, 0, **pick)])[0]
    assert choice is not None
    return choice.token


def test_min_p_keeps_what_is_near_enough_to_the_likeliest() -> None:
    # .57 .21 .13 .08 .03 of the whole: the second is .37 of the first.
    assert set(draw(LOGITS, Sampling(min_p=0.3), 500)) == {0, 1}
    assert set(draw(LOGITS, Sampling(min_p=1.0), 100)) == {0}


def test_a_frequency_penalty_counts_and_a_presence_penalty_does_not() -> None:
    answered = {0: 3}
    assert greedy(LOGITS, answered=answered, sampling={"frequency_penalty": 0.3}) == 0
    assert greedy(LOGITS, answered=answered, sampling={"frequency_penalty": 0.4}) == 1
    assert greedy(LOGITS, answered=answered, sampling={"presence_penalty": 0.9}) == 0
    assert greedy(LOGITS, answered=answered, sampling={"presence_penalty": 1.1}) == 1


def test_a_repetition_penalty_looks_at_the_prompt_too() -> None:
    assert greedy(LOGITS, prompt=[0], sampling={"repetition_penalty": 2.5}) == 1
    assert greedy(LOGITS, prompt=[0, 1], answered={2: 1}, sampling={"repetition_penalty": 100}) == 0
    # A logit below zero is made smaller by it, not larger.
    below = torch.tensor([[-1.0, -1.5]])
    assert greedy(below, prompt=[0], sampling={"repetition_penalty": 2}) == 1


def test_a_bias_is_added_to_its_token_alone() -> None:
    assert greedy(LOGITS, sampling={"logit_bias": ((4, 3.1),)}) == 4
    assert set(draw(LOGITS, Sampling(logit_bias=((0, -100.0), (1, -100.0))), 300)) == {2, 3, 4}


def test_a_mask_allows_its_tokens_alone_and_none_past_its_end() -> None:
    wide = torch.arange(70.0).unsqueeze(0)
    word = torch.tensor([1 << 5 | 1 << 9, 1 << 3], dtype=torch.int32)
    assert greedy(wide, mask=word) == 35
    assert greedy(wide, mask=word[:1]) == 9
    free = choose(wide.clone(), [Pick(Sampling(), seed, 0, mask=word[:1]) for seed in [1]])[0]
    assert free is not None
    assert free.token in (5, 9)
    assert choose(wide.clone(), [Pick(Sampling(temperature=0), 1, 0, mask=word * 0)]) == [None]


def test_what_one_row_adjusts_leaves_the_others_and_the_raw_logprobs_alone() -> None:
    plain = Pick(Sampling(temperature=0, logprobs=True, top_logprobs=2), 1, 0)
    biased = Pick(Sampling(temperature=0, logprobs=True, logit_bias=((4, 50.0),)), 1, 0)
    first, second = choose(LOGITS.repeat(2, 1), [plain, biased])
    assert first is not None
    assert second is not None
    raw = LOGITS[0].log_softmax(-1).tolist()
    assert (first.token, second.token) == (0, 4)
    assert first.logprob == pytest.approx(raw[0])
    assert second.logprob == pytest.approx(raw[4])
    assert [token for token, _ in first.top] == [0, 1]
    assert [logprob for _, logprob in first.top] == pytest.approx(raw[:2])
    assert second.top == ()


def test_looking_late_as_on_a_gpu_chooses_the_same() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(40, 700, generator=generator) * 3
    logits[5, 17], logits[11, 3], logits[20] = float("nan"), float("inf"), float("-inf")
    nothing = torch.zeros(22, dtype=torch.int32)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {},
        {"temperature": 0.7, "top_p": 0.9},
        {"top_k": 5, "min_p": 0.05, "logprobs": True, "top_logprobs": 3},
        {"temperature": 0, "logprobs": True},
        {"frequency_penalty": 1.5, "logit_bias": ((7, 50.0),)},
    ]
    rows = [
        Pick(Sampling(**kinds[n % 6]), n, 2, {4: 2}, mask=nothing if n in (13, 25, 36) else None)
        for n in range(40)
    ]
    early = choose_all(logits.clone(), rows, late=False)
    late = choose_all(logits.clone(), rows, late=True)
    assert [n for n, choice in enumerate(early) if choice is None] == [5, 11, 13, 20, 25, 36]
    assert late == early
    everyone = [Pick(Sampling(), n, 0) for n in range(40)]
    assert choose_all(logits.clone(), everyone, late=True) == choose_all(logits, everyone, late=False)
