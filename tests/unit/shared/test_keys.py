"""API keys: strong, checked for typing errors, hashed under a pepper."""

from __future__ import annotations

import pytest

from shared import keys


def test_a_new_key_is_well_formed_and_its_own() -> None:
    made = {keys.new_key() for _ in range(500)}
    assert len(made) == 500
    assert all(keys.well_formed(key) for key in made)
    assert all(key.startswith("hl_") and len(key) == 3 + 43 + 6 for key in made)


def test_one_mistyped_character_is_noticed() -> None:
    key = keys.new_key()
    for place in range(3, len(key)):
        other = "A" if key[place] != "A" else "B"
        assert not keys.well_formed(key[:place] + other + key[place + 1 :]), place


@pytest.mark.parametrize(
    "key", ["", "hl_", "hl_short", "sk-" + "a" * 49, "hl_" + "密" * 49, "hl_" + "a" * 200, "hl_' OR 1=1 --"]
)
def test_what_is_no_key_is_not_well_formed(key: str) -> None:
    assert not keys.well_formed(key)


def test_the_digest_needs_key_and_pepper_and_shows_neither() -> None:
    key = keys.new_key()
    digest = keys.digest(key, "pepper")
    assert len(digest) == 32
    assert digest == keys.digest(key, "pepper")
    assert digest != keys.digest(key, "salt")
    assert digest != keys.digest(keys.new_key(), "pepper")
    assert key.encode() not in digest
