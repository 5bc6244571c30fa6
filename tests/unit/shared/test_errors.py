"""The base of all errors keeps what an edge needs."""

from __future__ import annotations

import pytest

from shared.errors import Conflict, HeliuError, InvalidInput, LimitExceeded, NotFound, Unavailable


def test_an_error_carries_message_code_param_and_whether_to_try_again() -> None:
    error = InvalidInput("top_p must be at most 1, got 2", param="top_p")
    assert (str(error), error.message) == ("top_p must be at most 1, got 2",) * 2
    assert (error.code, error.param, error.retryable) == ("invalid_value", "top_p", False)


def test_code_and_retryable_of_one_error_do_not_leak_into_its_kind() -> None:
    special = Unavailable("gone", code="redis_unavailable", retryable=False)
    assert (special.code, special.retryable) == ("redis_unavailable", False)
    assert (Unavailable("x").code, Unavailable("x").retryable) == ("unavailable", True)


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [(InvalidInput, False), (NotFound, False), (Conflict, False), (Unavailable, True), (LimitExceeded, True)],
)
def test_only_what_may_pass_is_to_be_tried_again(kind: type[HeliuError], retryable: bool) -> None:
    assert kind("x").retryable is retryable
    assert issubclass(kind, HeliuError)
