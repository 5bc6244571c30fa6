"""The status of each error, and how long a caller shall wait."""

from __future__ import annotations

import pytest

from services.gateway.errors import RateLimited, error_response, status_of
from shared.errors import Conflict, HeliuError, InvalidInput, NotFound, Unavailable


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("x"), 400),
        (InvalidInput("x", code="of the worker's own"), 400),
        (HeliuError("x", code="of the worker's own", retryable=True), 503),
        (NotFound("x"), 404),
        (Conflict("x"), 409),
        (Unavailable("x"), 503),
        (RateLimited("x", retry_after_s=0.2), 429),
        (HeliuError("x"), 500),
    ],
)
def test_each_error_has_its_status(error: HeliuError, status: int) -> None:
    assert status_of(error) == status
    assert error_response(error, "t").status_code == status


def test_a_rate_limit_says_when_in_whole_seconds() -> None:
    assert error_response(RateLimited("x", retry_after_s=0.2), None).headers["retry-after"] == "1"
