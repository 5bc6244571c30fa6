"""The table of states and what OpenAI's APIs call them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from shared.errors import Conflict
from shared.jobs import (
    BATCH_STATUS,
    FINE_TUNING_STATUS,
    TERMINAL,
    TRANSITIONS,
    Job,
    Status,
    batch_status,
    check_transition,
    fine_tuning_status,
    new_id,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(state: Status, **values: Any) -> Job:
    base: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    base |= {"id": "job_1", "tenant_id": UUID(int=1), "progress": {}, "payload": {}, "metadata": {}}
    return Job(**{**base, "state": state, **values})


def test_every_state_has_a_row_and_a_name_in_each_api() -> None:
    for table in (TRANSITIONS, FINE_TUNING_STATUS, BATCH_STATUS):
        assert set(table) == set(Status)


def test_what_has_ended_stays_so_except_that_the_dead_may_be_replayed() -> None:
    assert {state: set(TRANSITIONS[state]) for state in TERMINAL if TRANSITIONS[state]} == {
        Status.DEAD: {Status.QUEUED}
    }


def test_only_a_queued_job_is_claimed_and_only_a_held_one_succeeds() -> None:
    assert {state for state in Status if Status.LEASED in TRANSITIONS[state]} == {Status.QUEUED}
    assert {state for state in Status if Status.SUCCEEDED in TRANSITIONS[state]} == {Status.LEASED}


def test_every_state_can_be_reached_from_queued() -> None:
    seen, frontier = {Status.QUEUED}, [Status.QUEUED]
    while frontier:
        for following in TRANSITIONS[frontier.pop()] - seen:
            seen.add(following)
            frontier.append(following)
    assert seen == set(Status)


@pytest.mark.parametrize("current", list(Status))
@pytest.mark.parametrize("target", list(Status))
def test_a_transition_is_checked_against_the_table(current: Status, target: Status) -> None:
    if target in TRANSITIONS[current]:
        check_transition(current, target)
    else:
        with pytest.raises(Conflict, match=f"is {current.value} cannot become {target.value}"):
            check_transition(current, target)


def test_a_refusal_says_what_is_possible() -> None:
    with pytest.raises(Conflict, match="cancelled, queued"):
        check_transition(Status.PAUSED, Status.SUCCEEDED)
    with pytest.raises(Conflict, match="nothing"):
        check_transition(Status.SUCCEEDED, Status.QUEUED)


def test_a_fine_tuning_job_validates_its_files_before_it_runs() -> None:
    assert fine_tuning_status(job(Status.LEASED, progress={"phase": "validating"})) == "validating_files"
    assert fine_tuning_status(job(Status.LEASED)) == "running"
    assert fine_tuning_status(job(Status.DEAD)) == "failed"


def test_a_batch_is_called_by_its_phase_until_it_ends() -> None:
    phases = [
        batch_status(job(Status.QUEUED, progress={"phase": p})) for p in ("validating", "rows", "finalizing")
    ]
    assert phases == ["validating", "in_progress", "finalizing"]
    assert batch_status(job(Status.QUEUED)) == "validating"
    assert batch_status(job(Status.LEASED, cancel_requested_at=NOW)) == "cancelling"
    assert batch_status(job(Status.CANCELLED, cancel_requested_at=NOW)) == "cancelled"


def test_ids_sort_by_the_time_of_their_making_and_never_meet() -> None:
    ids = [new_id("job_") for _ in range(2000)]
    assert len(set(ids)) == 2000
    stamps = [one[4:16] for one in ids]
    assert stamps == sorted(stamps)


def test_a_trace_id_is_the_traceparents() -> None:
    assert job(Status.QUEUED, traceparent=f"00-{'a' * 32}-{'b' * 16}-01").trace_id == "a" * 32
    assert job(Status.QUEUED).trace_id is None
