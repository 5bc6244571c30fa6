"""Lists as clients see them."""

from __future__ import annotations

from services.gateway.pages import listing


def test_an_empty_list_has_no_first_and_no_last() -> None:
    assert listing([], False) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
