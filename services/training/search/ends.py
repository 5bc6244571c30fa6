"""What a search says of its trials, and when it has had enough of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from services.training.search.trial import Trial, best_of
from shared.contracts.searches import RunSearch

# A fault of the data or of the base comes back in every trial; one of the parameters does not.
SAME_FAULTS = 5
OF_PARAMETERS = frozenset({"training_diverged", "out_of_memory", "crashed", "time_limit_exceeded"})
REASONS_TOLD = 5


def counts(trials: Sequence[Trial]) -> dict[str, int]:
    """How many trials there are of each state, and `total`."""
    found = Counter(one.state for one in trials)
    return {
        "total": len(trials),
        **{state: found[state] for state in ("open", "complete", "pruned", "failed", "cancelled")},
    }


def is_hopeless(trials: Sequence[Trial], errors: Mapping[int, Mapping[str, Any]]) -> bool:
    """Whether all have failed so far, and in one way that other parameters would not mend."""
    codes = {errors.get(one.number, {}).get("code") for one in trials}
    failed = all(one.state == "failed" for one in trials)
    return failed and len(trials) >= SAME_FAULTS and len(codes) == 1 and not codes & OF_PARAMETERS


def why_nothing(trials: Sequence[Trial], errors: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The error of a search of which no trial is complete, with the reasons in the order of how often they were."""
    ended = Counter(one.state for one in trials)
    of = ", ".join(f"{count} {state}" for state, count in ended.most_common()) or "none was begun"
    told = Counter(
        f"{error.get('code')}: {error.get('message')}" for error in errors.values() if error is not None
    )
    reasons = [f"{reason} ({count} trials)" for reason, count in told.most_common(REASONS_TOLD)]
    only_failed = bool(trials) and set(ended) == {"failed"}
    return {
        "code": "all_trials_failed" if only_failed else "no_trial_completed",
        "message": f"no trial of {len(trials)} has a model ({of}). " + "; ".join(reasons),
        "param": None,
    }


def told_of(search: RunSearch, trial: Trial, error: Mapping[str, Any] | None, best: Trial | None) -> str:
    """One line on a trial that has ended."""
    params = ", ".join(f"{path}={value}" for path, value in trial.params.items())
    if trial.state == "complete" and trial.value is not None:
        ahead = "the best so far" if best is trial else f"best is {best.value:.6g}" if best else ""
        return f"trial {trial.number}: {search.metric} {trial.value:.6g} ({ahead}) with {params}"
    return (
        f"trial {trial.number} {trial.state} with {params}: {(error or {}).get('message', 'no reason given')}"
    )


def best_in_words(search: RunSearch, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """Number, value and parameters of the best one."""
    best = best_of(trials, search.sign)
    return {"number": best.number, "value": best.value, "params": dict(best.params)} if best else None
