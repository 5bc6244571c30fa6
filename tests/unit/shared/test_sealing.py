"""Secrets at rest: what opens them, what does not, and how their key is changed."""

from __future__ import annotations

import pytest

from shared.sealing import Sealer, Unreadable, is_sealed

OLD, NEW = "the old secret of this house", "the new secret of this house"
CANARY = "canary-pw-7f3a"


def test_what_is_sealed_opens_again_and_does_not_show_in_its_sealed_form() -> None:
    sealed = Sealer([OLD]).seal(CANARY, "source a")
    assert is_sealed(sealed)
    assert CANARY not in sealed
    assert Sealer([OLD]).open(sealed, "source a") == CANARY


def test_the_same_secret_is_sealed_differently_each_time() -> None:
    sealer = Sealer([OLD])
    assert sealer.seal(CANARY, "source a") != sealer.seal(CANARY, "source a")


def test_a_secret_that_was_moved_to_another_row_does_not_open_there() -> None:
    sealer = Sealer([OLD])
    with pytest.raises(Unreadable) as caught:
        sealer.open(sealer.seal(CANARY, "source a"), "source b")
    assert CANARY not in caught.value.message


@pytest.mark.parametrize("damage", [lambda s: s[:-8] + "AAAAAAA=", lambda s: s[:-4], lambda s: "x"])
def test_a_damaged_secret_is_refused_in_words(damage: object) -> None:
    sealer = Sealer([OLD])
    with pytest.raises(Unreadable):
        sealer.open(damage(sealer.seal(CANARY, "a")), "a")  # type: ignore[operator]


def test_a_new_secret_in_front_opens_the_old_and_seals_with_itself() -> None:
    before = Sealer([OLD]).seal(CANARY, "a")
    both = Sealer([NEW, OLD])
    assert both.open(before, "a") == CANARY
    assert not both.is_current(before)
    after = both.seal(CANARY, "a")
    assert both.is_current(after)
    assert Sealer([NEW]).open(after, "a") == CANARY
    with pytest.raises(Unreadable, match="HELIU_SECRET_KEY"):
        Sealer([NEW]).open(before, "a")
