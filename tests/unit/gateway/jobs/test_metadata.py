"""Metadata as a filter of lists."""

from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams

from services.gateway.jobs.metadata import wanted_metadata
from shared.errors import InvalidInput


def test_metadata_filters_are_read_from_brackets_and_nothing_else() -> None:
    assert wanted_metadata(QueryParams("metadata[team]=a&metadata[b]=c&limit=1")) == {"team": "a", "b": "c"}
    assert wanted_metadata(QueryParams("metadata=null")) is None
    for wrong in ("metadata=x", "metadata[]=x", "metadata.a=x"):
        with pytest.raises(InvalidInput):
            wanted_metadata(QueryParams(wrong))
