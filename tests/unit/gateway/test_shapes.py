"""Statuses, and the small sums of the gateway."""

from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams

from services.gateway.errors import RateLimited, error_response, status_of
from services.gateway.jobs.metadata import wanted_metadata
from services.gateway.pages import listing
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


def test_metadata_filters_are_read_from_brackets_and_nothing_else() -> None:
    assert wanted_metadata(QueryParams("metadata[team]=a&metadata[b]=c&limit=1")) == {"team": "a", "b": "c"}
    assert wanted_metadata(QueryParams("metadata=null")) is None
    for wrong in ("metadata=x", "metadata[]=x", "metadata.a=x"):
        with pytest.raises(InvalidInput):
            wanted_metadata(QueryParams(wrong))


def test_an_empty_list_has_no_first_and_no_last() -> None:
    assert listing([], False) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
