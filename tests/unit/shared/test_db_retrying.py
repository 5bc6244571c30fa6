"""Running work again while Postgres is away."""

from __future__ import annotations

import pytest

from shared import db
from shared.db import connection_string, retrying
from shared.errors import InvalidInput, Unavailable


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr(db.time, "sleep", made.append)
    monkeypatch.setattr(db.random, "uniform", lambda low, high: high)
    return made


def test_what_is_away_is_tried_again_with_pauses_that_grow_to_a_limit(pauses: list[float]) -> None:
    left = [Unavailable("away")] * 9

    def work() -> str:
        if left:
            raise left.pop()
        return "done"

    assert retrying(work, attempts=10, patience=0.1) == "done"
    assert pauses[:4] == [0.2, 0.4, 0.8, 1.6]
    assert pauses[4:] == [db.LONGEST_PAUSE_S] * 5


def test_the_last_failure_is_the_callers(pauses: list[float]) -> None:
    def work() -> None:
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        retrying(work, attempts=3)
    assert len(pauses) == 2


def test_what_will_not_pass_is_not_tried_again(pauses: list[float]) -> None:
    def work() -> None:
        raise InvalidInput("wrong")

    with pytest.raises(InvalidInput):
        retrying(work)
    assert pauses == []


def test_time_outs_are_added_and_what_the_url_says_wins() -> None:
    made = connection_string("postgresql://u:p@h/d?connect_timeout=9", "x")
    assert "connect_timeout=9" in made
    assert "tcp_user_timeout=8000" in made
    assert "statement_timeout=10000" in made
    assert "application_name=x" in made
