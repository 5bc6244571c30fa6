"""Deaf, or idle: what the watchdog makes of what a worker sees. No clock: the looks bring their own."""

from __future__ import annotations

from collections.abc import Collection

from shared.watchdog import DEAF_S, KNOCK_S, Look, Verdict, Watchdog

STEP_S = 2.0
START = 1_000_000.0


class Scene:
    """A watchdog and a clock that goes STEP_S from look to look."""

    def __init__(self) -> None:
        self.dog = Watchdog()
        self.now = START
        self.claimed_at: dict[str, float] = {}
        self.heard_at = START

    def look(
        self, seconds: float, *, claimable: Collection[str] = (), in_line: Collection[str] = ()
    ) -> dict[str, Verdict]:
        """Look for `seconds`; all that was found."""
        found: dict[str, Verdict] = {}
        end = self.now + seconds
        while self.now < end:
            self.now += STEP_S
            found |= self.dog.judge(Look(self.now, claimable, self.claimed_at, in_line, self.heard_at))
        return found


def test_a_job_that_comes_after_hours_of_idleness_is_no_reason_to_die() -> None:
    scene = Scene()
    scene.claimed_at["q"] = START
    assert scene.look(4 * 3600) == {}
    assert scene.look(STEP_S, claimable=["q"], in_line=["q"]) == {}
    scene.claimed_at["q"] = scene.heard_at = scene.now
    assert scene.look(3600) == {}


def test_a_job_that_nobody_rings_for_is_claimed_by_hand_and_no_one_dies_of_it() -> None:
    scene = Scene()
    assert scene.look(KNOCK_S - STEP_S, claimable=["q", "other"]) == {}
    for _ in range(20):  # Redis is away for a long time, and each knock claims
        assert scene.look(KNOCK_S, claimable=["q"]) == {"q": Verdict.KNOCK}
        scene.claimed_at["q"] = scene.now


def test_a_worker_whose_claims_bring_nothing_for_a_minute_is_deaf() -> None:
    scene = Scene()
    scene.claimed_at["other"] = START + DEAF_S
    assert scene.look(DEAF_S, claimable=["q"]) == {"q": Verdict.KNOCK}
    assert scene.look(STEP_S, claimable=["q"])["q"] is Verdict.DEAF


def test_a_worker_that_leaves_messages_in_the_line_is_deaf_though_it_claims_by_hand() -> None:
    scene = Scene()
    for _ in range(int(DEAF_S / STEP_S)):
        assert scene.look(STEP_S, claimable=["q"], in_line=["q", "live"]) in ({}, {"q": Verdict.KNOCK})
        scene.claimed_at["q"] = scene.now
    assert scene.look(STEP_S, in_line=["q", "live"]) == {"q": Verdict.DEAF, "live": Verdict.DEAF}


def test_a_line_that_is_never_empty_is_fine_while_messages_are_heard() -> None:
    scene = Scene()
    for _ in range(100):
        assert scene.look(10, claimable=["q"], in_line=["q"]) == {}
        scene.heard_at = scene.claimed_at["q"] = scene.now


def test_a_wait_that_ended_in_between_starts_anew() -> None:
    scene = Scene()
    for _ in range(10):
        assert scene.look(KNOCK_S - STEP_S, claimable=["q"], in_line=["q"]) == {}
        assert scene.look(STEP_S) == {}
