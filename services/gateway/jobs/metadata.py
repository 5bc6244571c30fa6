"""The sixteen labels that a client may hang on a job, and how it asks for jobs by them. Pure."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field
from starlette.datastructures import QueryParams

from shared.errors import InvalidInput

Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]

BRACKETED = re.compile(r"^metadata\[(.{1,64})\]$", re.DOTALL)


def wanted_metadata(query: QueryParams) -> dict[str, str] | None:
    """`?metadata[team]=x` -> {"team": "x"}; `?metadata=null` asks for nothing. Raises InvalidInput."""
    wanted: dict[str, str] = {}
    for name, value in query.multi_items():
        if not name.startswith("metadata"):
            continue
        found = BRACKETED.match(name)
        if found is not None:
            wanted[found[1]] = value
        elif name == "metadata" and value in ("", "null"):
            continue
        else:
            raise InvalidInput(
                f"{name[:80]!r} is not a metadata filter; write metadata[key]=value", param=name[:80]
            )
    if len(wanted) > 16:
        raise InvalidInput(f"at most 16 metadata filters are allowed, got {len(wanted)}", param="metadata")
    return wanted or None
