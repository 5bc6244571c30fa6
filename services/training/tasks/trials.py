"""A training run as a trial of a search: tells the search of its metric, and is given up when the search says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.training.repository import searches as repository
from services.training.search.study import judge
from services.training.search.trial import Point, Trial, progress_of
from shared import semconv
from shared.contracts.searches import RunSearch, final_value
from shared.db import Connection, Row, retrying
from shared.errors import Conflict, HeliuError
from shared.job_context import Handler, JobContext, Outcome, Waiting
from shared.stop import Stop

TIME_IS_OVER = {
    "code": "search_time_over",
    "message": "the search's time was over before this trial had ended",
}


class TrialOver(Exception):
    """The run stopped because its search has no more use for it; carries how its job ends."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("given up by its search")
        self.outcome = outcome


def ends_as_trial(handler: Callable[..., Outcome | Waiting]) -> Handler:
    """The handler, with trials that were given up ending well."""

    def handle(ctx: JobContext, job: Any) -> Outcome | Waiting:
        try:
            return handler(ctx, job)
        except TrialOver as over:
            return over.outcome

    return handle


def open_trial(ctx: JobContext) -> SearchTrial | None:
    """The trial that this job runs; None for a job of its own."""
    if ctx.job.parent_id is None:
        return None
    checkpoint = ctx.job.progress.get("checkpoint")
    with ctx.transaction() as connection:
        row = repository.trial_of(connection, ctx.job.id)
        if row is None:
            return None
        repository.rewind(
            connection, row["search_id"], row["number"], checkpoint["step"] if checkpoint else 0
        )
    return SearchTrial(ctx, row)


class SearchTrial:
    """Stands between the run and its job: a stop that the search wants looks to the run like one of its job's."""

    def __init__(self, ctx: JobContext, row: Row) -> None:
        self._ctx = ctx
        self._search_id, self.number = str(row["search_id"]), int(row["number"])
        self._search = RunSearch.model_validate(row["payload"])
        self._deadline: float | None = row["progress"].get("deadline")
        self._pruned: str | None = None
        self._last: float | None = None
        self._part = 0
        ctx.span.set_all({semconv.SEARCH: self._search_id, semconv.TRIAL: self.number})

    @property
    def reason(self) -> Stop | None:
        """Why the run shall stop; asked at every frame and pause of the run."""
        if self._ctx.reason is not None:
            return self._ctx.reason
        return Stop.CANCEL if self._pruned or self._late else None

    @property
    def _late(self) -> bool:
        return self._deadline is not None and time.time() > self._deadline

    def touch(self) -> None:
        self._ctx.touch()

    def told(self, step: int, data: Mapping[str, Any]) -> None:
        """Hear the run's metrics: store the objective, and ask the pruner whether to go on."""
        value, total = data.get(self._search.metric), data.get("total_steps")
        # Only a whole run's length says how far a step is.
        if value is None or total is None or self._pruned:
            return
        self._last = float(value)
        part = progress_of(Point(step, self._last, int(total)))
        # A hundred points tell a search enough; the job's own curve has all of them.
        if part == self._part and step < total:
            return
        self._part = part

        def store() -> list[Row]:
            with self._ctx.transaction() as connection:
                repository.add_point(
                    connection,
                    self._search_id,
                    self.number,
                    step=step,
                    value=float(value),
                    total=int(total),
                )
                return [] if self._search.pruner == "none" else repository.trials(connection, self._search_id)

        rows = retrying(store, attempts=8, patience=0.2)
        if not rows:
            return
        verdict = judge(self._search, [trial_from(row) for row in rows], self.number)
        if verdict.notes != rows[self.number]["notes"]:
            with self._ctx.transaction() as connection:
                repository.note(connection, self._search_id, self.number, verdict.notes)
        # The last step has nothing left that could be saved.
        if verdict.prune and step < total:
            self._pruned = verdict.why
            self._ctx.event("trial_pruned", f"given up: {verdict.why}", {"step": step, "value": value})

    def leave(self) -> None:
        """Raise TrialOver where the run stopped for the search's sake and not for its job's."""
        if self._ctx.reason is not None:
            return
        if self._pruned:
            told = {"code": "pruned", "message": self._pruned}
            raise TrialOver(self._outcome("pruned", value=self._last, error=told))
        if self._late:
            raise TrialOver(self._outcome("cancelled", error=TIME_IS_OVER))

    def value(self, info: Mapping[str, Any]) -> float:
        """The objective of the finished run. Raises HeliuError where it told of none."""
        found = final_value(self._search.metric, info, self._last)
        if found is None:
            raise HeliuError(
                f"the run has no {self._search.metric}, which the search is for; were there held-out rows?",
                code="objective_missing",
                param="objective.metric",
            )
        return found

    def keep(self, connection: Connection, value: float, models: Sequence[Mapping[str, Any]]) -> None:
        """In the place of registering its models: its search does that with the best one's."""
        self._settle(connection, "complete", value=value, models=models)

    def told_of(self, value: float) -> dict[str, Any]:
        """What the job's result says of it."""
        return {"search": self._search_id, "trial": self.number, self._search.metric: value}

    def _outcome(self, state: str, **what: Any) -> Outcome:
        result = {"search": self._search_id, "trial": self.number, "state": state}
        return Outcome(result=result, write=lambda connection: self._settle(connection, state, **what))

    def _settle(self, connection: Connection, state: str, **what: Any) -> None:
        if not repository.settle(connection, self._search_id, self.number, state, **what):
            raise Conflict(
                f"trial {self.number} of {self._search_id} was settled before this run of it ended"
            )


def trial_from(row: Row) -> Trial:
    """A row as the search's pure part looks at it."""
    points = [Point(int(step), *told) for step, told in row["curve"].items()]
    return Trial(
        row["number"],
        row["params"],
        row["state"],
        row["value"],
        tuple(sorted(points, key=lambda point: point.step)),
        row["notes"],
    )
