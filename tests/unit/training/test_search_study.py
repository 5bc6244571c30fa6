"""What a search tries next, gives up and learns: of trials alone, the same again after a restart."""

from __future__ import annotations

import math
from typing import Any

import pytest

from services.training.search import ends
from services.training.search.placing import payload_of
from services.training.search.study import IMPORTANCE_NEEDS, importance, judge, propose
from services.training.search.trial import Point, Trial, along_the_way, best_of
from shared.contracts.searches import Choices, Dimension, FloatRange, IntRange, RunSearch

RATE, LOSS = "hyperparameters.rate", "loss"
SPACE = (
    Dimension(path=RATE, range=FloatRange(type="float", low=1e-4, high=1.0, log=True), place=RATE),
    Dimension(
        path=LOSS,
        range=Choices(type="categorical", choices=("plain", ["a", "list"], None)),
        patches=({"choice.loss": "plain"}, {"choice.loss": "other"}, {"choice.loss": None, "choice.n": 3}),
    ),
)


def search(**values: Any) -> RunSearch:
    given: dict[str, Any] = {
        "asked": {},
        "job_kind": "training.train_head",
        "job_queue": "training.default",
        "job": {"hyperparameters": {"rate": "auto", "steps": 1}, "choice": {"loss": "auto", "n": 1}},
        "space": SPACE,
        "metric": "valid_loss",
        "direction": "minimize",
        "trials": 24,
        "pruner_startup_trials": 2,
        "pruner_warmup": 0.3,
    }
    return RunSearch(**{**given, **values})


def worth(params: dict[str, Any]) -> float:
    """Smallest at a rate of 0.01; the loss matters little."""
    return abs(math.log10(params[RATE]) + 2) + (0.05 if params[LOSS] == "plain" else 0.0)


def curve(end: float, steps: int, total: int) -> tuple[Point, ...]:
    return tuple(Point(step, end + 1 - step / total, total) for step in range(1, steps + 1))


def complete(number: int, params: dict[str, Any], total: int = 10) -> Trial:
    value = worth(params)
    return Trial(number, params, "complete", value, curve(value, total, total))


def run(asked: RunSearch) -> list[Trial]:
    trials: list[Trial] = []
    while len(trials) < asked.trials:
        params = propose(asked, trials, len(trials))
        assert params is not None
        trials.append(complete(len(trials), params))
    return trials


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_and_trials_propose_the_same_and_another_seed_another(sampler: Any) -> None:
    asked = search(sampler=sampler, trials=8)
    trials = run(asked)
    for number in range(8):
        assert propose(asked, trials[:number], number) == trials[number].params
    others = run(search(sampler=sampler, trials=8, seed=1))
    assert [one.params for one in others] != [one.params for one in trials]


def test_tpe_draws_where_trials_were_good() -> None:
    late = {"tpe": 0.0, "random": 0.0}
    for seed in range(4):
        for sampler in late:
            asked = search(sampler=sampler, seed=seed)
            late[sampler] += sum(worth(dict(one.params)) for one in run(asked)[12:])
    assert late["tpe"] < 0.75 * late["random"]


def test_trials_that_run_are_reckoned_with_and_not_proposed_again() -> None:
    space = (Dimension(path="n", range=IntRange(type="int", low=1, high=6), place="n"),)
    asked = search(space=space, trials=6, sampler="random")
    trials: list[Trial] = []
    for number in range(6):
        params = propose(asked, trials, number)
        assert params is not None
        trials.append(Trial(number, params))
    assert len({one.params["n"] for one in trials}) >= 5


def test_a_grid_has_each_point_once_in_an_order_of_the_seed() -> None:
    space = (
        Dimension(path="n", range=IntRange(type="int", low=1, high=7, step=3), place="n"),
        Dimension(path="x", range=FloatRange(type="float", low=0.0, high=0.3, step=0.1), place="x"),
    )
    asked = search(space=space, sampler="grid", trials=12)
    points = [propose(asked, [], number) for number in range(12)]
    assert {(one["n"], round(one["x"], 6)) for one in points if one} == {
        (n, x) for n in (1, 4, 7) for x in (0.0, 0.1, 0.2, 0.3)
    }
    assert propose(asked, [], 12) is None
    assert [
        propose(search(space=space, sampler="grid", trials=12, seed=1), [], n) for n in range(12)
    ] != points


def test_a_payload_has_every_value_where_it_belongs_and_the_searched_job_stays_as_it_was() -> None:
    asked = search()
    made = payload_of(asked, {RATE: 0.5, LOSS: None})
    assert made == {"hyperparameters": {"rate": 0.5, "steps": 1}, "choice": {"loss": None, "n": 3}}
    assert asked.job["choice"] == {"loss": "auto", "n": 1}


def test_runs_of_different_lengths_are_compared_at_the_same_part_of_their_way() -> None:
    long = Trial(0, {}, "open", None, (Point(100, 3.0, 1000), Point(500, 2.0, 1000)))
    short = Trial(1, {}, "open", None, (Point(1, 3.5, 4), Point(2, 2.5, 4)))
    assert along_the_way(long)[50] == 2.0
    assert along_the_way(short)[50] == 2.5
    assert max(along_the_way(long)) == 50
    # One that was cut to fewer steps than it planned has an end all the same.
    assert along_the_way(Trial(2, {}, "complete", 1.0, (Point(8, 1.0, 10),)))[100] == 1.0


def with_running(asked: RunSearch, steps: int, end: float) -> list[Trial]:
    good = [complete(n, {RATE: 0.01 * (1 + n / 10), LOSS: "plain"}) for n in range(3)]
    return [*good, Trial(3, {RATE: 1.0, LOSS: "plain"}, "open", None, curve(end, steps, 20))]


def test_the_median_gives_up_what_is_worse_and_not_before_the_warm_up_or_what_is_better() -> None:
    asked = search(pruner="median")
    assert not judge(asked, with_running(asked, 5, 2.0), 3).prune
    found = judge(asked, with_running(asked, 8, 2.0), 3)
    assert found.prune
    assert "valid_loss is" in found.why
    assert "at step 8 of 20" in found.why
    assert not judge(asked, with_running(asked, 8, 0.0), 3).prune
    assert not judge(search(pruner="none"), with_running(asked, 8, 2.0), 3).prune
    late = search(pruner="median", pruner_startup_trials=4)
    assert not judge(late, with_running(late, 8, 2.0), 3).prune


def test_hyperband_finds_again_at_each_rung_what_it_wrote_of_others() -> None:
    asked = search(pruner="hyperband", pruner_warmup=0.1)
    trials: list[Trial] = []
    ended = []
    for number in range(9):
        params = {RATE: 10.0 ** -(number % 4), LOSS: "plain"}
        notes: dict[str, Any] = {}
        for steps in range(1, 11):
            one = Trial(number, params, "open", None, curve(worth(params), steps, 10), notes)
            verdict = judge(asked, [*trials, one], number)
            notes = dict(verdict.notes)
            if verdict.prune:
                break
        state: Any = "pruned" if verdict.prune else "complete"
        value = None if verdict.prune else worth(params)
        trials.append(Trial(number, params, state, value, one.curve, notes))
        ended.append((state, round(worth(params), 2)))
    assert any(one.notes for one in trials)
    assert {state for state, _ in ended} == {"pruned", "complete"}
    assert sum(w for s, w in ended if s == "pruned") / sum(s == "pruned" for s, _ in ended) > sum(
        w for s, w in ended if s == "complete"
    ) / sum(s == "complete" for s, _ in ended)


def test_importance_is_the_parameters_that_matter_or_a_reason() -> None:
    asked = search(sampler="random")
    trials = run(asked)
    shares, why = importance(asked, trials)
    assert why is None
    assert shares is not None
    assert next(iter(shares)) == RATE
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[RATE] > 0.6
    few, why = importance(asked, trials[: IMPORTANCE_NEEDS - 1])
    assert (few, why) == (
        None,
        f"{IMPORTANCE_NEEDS - 1} trials are complete, and it takes {IMPORTANCE_NEEDS}",
    )
    alike, why = importance(asked, [Trial(n, one.params, "complete", 1.0) for n, one in enumerate(trials)])
    assert alike is None
    assert "same value" in str(why)


def test_the_best_is_complete_and_the_earliest_of_equals() -> None:
    trials = [
        Trial(0, {}, "failed"),
        Trial(1, {}, "complete", 2.0),
        Trial(2, {}, "complete", 1.0),
        Trial(3, {}, "complete", 1.0),
        Trial(4, {}, "pruned", None, (Point(1, 0.1, 9),)),
    ]
    assert (best_of(trials, -1), best_of(trials, 1)) == (trials[2], trials[1])
    assert best_of(trials[:1], 1) is None


def test_a_search_gives_up_on_a_fault_that_parameters_do_not_mend() -> None:
    failed = [Trial(n, {}, "failed") for n in range(ends.SAME_FAULTS)]
    of_data = {n: {"code": "invalid_training_file", "message": "line 3"} for n in range(len(failed))}
    of_rates = {n: {"code": "training_diverged", "message": "nan"} for n in range(len(failed))}
    assert ends.is_hopeless(failed, of_data)
    assert not ends.is_hopeless(failed, of_rates)
    assert not ends.is_hopeless(failed[:-1], of_data)
    assert not ends.is_hopeless([*failed, Trial(len(failed), {}, "complete", 1.0)], of_data)
    told = ends.why_nothing(failed, {**of_data, 0: of_rates[0]})
    assert told["code"] == "all_trials_failed"
    assert f"invalid_training_file: line 3 ({len(failed) - 1} trials)" in told["message"]
