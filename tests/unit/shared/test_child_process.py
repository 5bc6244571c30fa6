"""A worker's hold on its child: frames both ways, and every way of its end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from shared.child import Child, ChildGone

MODULE = "tests.unit.shared.child_for_tests"


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    monkeypatch.setenv("HELIU_KEY_PEPPER", "secret")
    made = Child(MODULE)
    yield made
    made.kill()
    made.close()


def said(child: Child) -> list[str]:
    return [frame["type"] for frame in child.frames() if frame is not None]


def test_it_is_heard_and_hears_and_sees_none_of_the_platforms_secrets(child: Child) -> None:
    child.send({"op": "hello", "text": "你好"})
    frames = (frame for frame in child.frames() if frame is not None)
    assert next(frames) == {"type": "environment", "keys": []}
    assert next(frames) == {"type": "said", "frame": {"op": "hello", "text": "你好"}}


def test_a_pause_is_told_as_none(child: Child) -> None:
    frames = child.frames(poll_s=0.01)
    assert any(frame is None for frame in frames)


def test_it_ends_when_its_stdin_closes(child: Child) -> None:
    child.close(grace_s=30)
    assert child.how_it_ended() == "exit status 0"
    assert not child.alive


def test_it_runs_in_a_session_of_its_own(child: Child) -> None:
    assert os.getsid(child.pid) == child.pid


def test_a_kill_is_told_as_what_it_mostly_is(child: Child) -> None:
    child.send({"op": "kill"})
    assert said(child) == ["environment"]
    assert child.how_it_ended() == "killed by SIGKILL (out of memory, as a rule)"
    with pytest.raises(ChildGone, match="SIGKILL"):
        child.send({"op": "hello"})


def test_an_exit_status_is_told(child: Child) -> None:
    child.send({"op": "exit", "code": 7})
    said(child)
    assert child.how_it_ended() == "exit status 7"


def test_one_that_speaks_nonsense_is_killed(child: Child) -> None:
    child.send({"op": "nonsense"})
    assert said(child) == ["environment"]
    assert "SIGKILL" in child.how_it_ended()


def test_one_that_does_not_end_is_killed_after_its_grace(child: Child) -> None:
    child.send({"op": "deaf"})
    child.close(grace_s=0.05)
    assert not child.alive
    assert "SIGKILL" in child.how_it_ended()
