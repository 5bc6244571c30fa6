"""How lists of vector stores and their files are paged: after or before an item, in either order. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Query

from shared.db import Row
from shared.errors import InvalidInput


@dataclass(frozen=True)
class VectorPage:
    """A page in `order`; `backward` is the one that ends before `beyond`, else the one that begins after it."""

    beyond: str | None
    backward: bool
    newest_first: bool
    limit: int

    @property
    def reads_newest_first(self) -> bool:
        """The order to read rows in, from `beyond` on: a page before something is read backward."""
        return self.newest_first != self.backward

    def cut(self, rows: Sequence[Row]) -> tuple[list[Row], bool]:
        """(the page, whether there is more), of one row more than its limit as they were read."""
        shown = list(rows[: self.limit])
        return (shown[::-1] if self.backward else shown), len(rows) > self.limit


def _page(
    after: Annotated[str | None, Query(max_length=256, description="id of the last item seen")] = None,
    before: Annotated[str | None, Query(max_length=256, description="id of the first item seen")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VectorPage:
    if after and before:
        raise InvalidInput("give after or before, not both", param="before")
    return VectorPage(after or before or None, bool(before), order == "desc", limit)


VectorPageDep = Annotated[VectorPage, Depends(_page)]
