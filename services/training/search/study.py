"""Optuna's samplers, pruners and importances over trials that live elsewhere: a study is rebuilt for each question.

Answers depend on the search's seed, the trial's number and the trials alone, so a search that was killed goes on as it
would have. Parameters of choices go through Optuna as the choice's place in its list: a choice may be any JSON value.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.training.search.trial import WAY, Trial, along_the_way
from shared.contracts.searches import Choices, Dimension, FloatRange, RunSearch, canonical

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

# Before so many are complete an importance would say more of chance than of the parameters.
IMPORTANCE_NEEDS = 5
REDUCTION = 3
# A small space has its points proposed again sooner than it is used up.
_TRIES = 16


@dataclass(frozen=True)
class Verdict:
    """Whether a trial is given up, why in words, and what the pruner wants to find again."""

    prune: bool
    why: str
    notes: Mapping[str, Any]


def propose(search: RunSearch, trials: Sequence[Trial], number: int) -> dict[str, Any] | None:
    """Parameters by path of trial `number`, given all trials before it; None where a grid is used up."""
    if search.sampler == "grid":
        return _of_grid(search, number)
    tried = {canonical(one.params) for one in trials}
    for again in range(_TRIES):
        study = _study(search, trials, sampler=_sampler(search, number, again))
        asked = study.ask(_distributions(search)).params
        params = {one.path: _decoded(one, asked[one.path]) for one in search.space}
        if canonical(params) not in tried:
            break
    return params


def _of_grid(search: RunSearch, number: int) -> dict[str, Any] | None:
    points = list(itertools.product(*(one.range.values or () for one in search.space)))
    random.Random(search.seed).shuffle(points)
    if number >= len(points):
        return None
    return dict(zip((one.path for one in search.space), points[number], strict=True))


def judge(search: RunSearch, trials: Sequence[Trial], number: int) -> Verdict:
    """Ask the pruner of trial `number`, which has just told something."""
    trial = trials[number]
    last = trial.last
    if search.pruner == "none" or last is None:
        return Verdict(False, "", trial.notes)
    study = _study(search, trials)
    prune = study.pruner.prune(study, study.get_trials(deepcopy=False)[number])
    notes = study.get_trials(deepcopy=False)[number].system_attrs
    if not prune:
        return Verdict(False, "", notes)
    if search.pruner == "median":
        than = "the best so far is worse than the median of the trials before it at this part of the way"
    else:
        than = f"it is not in the best of {REDUCTION} at this rung of hyperband"
    return Verdict(
        True, f"{search.metric} is {last.value:.6g} at step {last.step} of {last.total}; {than}", notes
    )


def importance(search: RunSearch, trials: Sequence[Trial]) -> tuple[dict[str, float] | None, str | None]:
    """(share of each path in what makes a trial good, None), or (None, why there is none). Shares add up to 1.

    PED-ANOVA (Watanabe, Bansal and Hutter 2023), over the trials that are complete.
    """
    done = [one for one in trials if one.state == "complete"]
    if len(done) < IMPORTANCE_NEEDS:
        return None, f"{len(done)} trials are complete, and it takes {IMPORTANCE_NEEDS}"
    if len({one.value for one in done}) == 1:
        return None, "all complete trials have the same value"
    import optuna.importance

    study = _study(search, _renumbered(done))
    found = optuna.importance.get_param_importances(study)
    return {path: found.get(path, 0.0) for path in sorted(found, key=lambda one: -found[one])}, None


def _renumbered(trials: Sequence[Trial]) -> list[Trial]:
    return [Trial(i, one.params, one.state, one.value) for i, one in enumerate(trials)]


def _study(search: RunSearch, trials: Sequence[Trial], sampler: BaseSampler | None = None) -> Study:
    """All trials in the order of their numbers, which are those that Optuna gives them."""
    import optuna  # costs most of a second, and only searches need it

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        # Hyperband draws a trial's bracket from this name and its number.
        study_name=f"seed-{search.seed}",
        sampler=sampler or optuna.samplers.RandomSampler(seed=search.seed),
        pruner=_pruner(search),
        direction=search.direction,
    )
    distributions = _distributions(search)
    states = optuna.trial.TrialState
    of = {"open": states.RUNNING, "complete": states.COMPLETE, "pruned": states.PRUNED}
    for number, one in enumerate(trials):
        assert one.number == number, f"trial {one.number} stands at {number}"
        state = of.get(one.state, states.FAIL)
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=one.value
                if state is states.COMPLETE
                else one.worth
                if state is states.PRUNED
                else None,
                params={dim.path: _encoded(dim, one.params[dim.path]) for dim in search.space},
                distributions=distributions,
                intermediate_values=along_the_way(one),
                system_attrs=dict(one.notes),
            )
        )
    return study


def _sampler(search: RunSearch, number: int, again: int) -> BaseSampler:
    import optuna

    digest = hashlib.sha256(f"{search.seed} {number} {again}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    startup = max(4, min(10, search.trials // 3))
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True)


def _pruner(search: RunSearch) -> BasePruner:
    import optuna

    if search.pruner == "none":
        return optuna.pruners.NopPruner()
    warmup = math.ceil(WAY * search.pruner_warmup)
    if search.pruner == "median":
        return optuna.pruners.MedianPruner(search.pruner_startup_trials, n_warmup_steps=warmup)
    return optuna.pruners.HyperbandPruner(max(1, warmup), WAY, REDUCTION)


def _distributions(search: RunSearch) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    made: dict[str, BaseDistribution] = {}
    for one in search.space:
        is_ = one.range
        if isinstance(is_, Choices):
            made[one.path] = CategoricalDistribution(range(len(is_.choices)))
        elif isinstance(is_, FloatRange):
            made[one.path] = FloatDistribution(is_.low, is_.high, log=is_.log, step=is_.step)
        else:
            made[one.path] = IntDistribution(is_.low, is_.ends[1], log=is_.log, step=is_.step)
    return made


def _encoded(dimension: Dimension, value: Any) -> Any:
    return dimension.index(value) if isinstance(dimension.range, Choices) else value


def _decoded(dimension: Dimension, value: Any) -> Any:
    return dimension.range.choices[value] if isinstance(dimension.range, Choices) else value
