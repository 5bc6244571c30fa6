"""A line in which tenants take turns. Knows nothing of what waits in it but whose it is."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class OfTenant(Protocol):
    """What a fair line is made of."""

    @property
    def tenant(self) -> str: ...


Q = TypeVar("Q", bound=OfTenant)


class FairQueue(Generic[Q]):
    """First in, first out for a tenant; round robin between tenants."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Q]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def __iter__(self) -> Iterator[Q]:
        for line in self._lines.values():
            yield from line

    def push(self, item: Q) -> None:
        self._lines.setdefault(item.tenant, deque()).append(item)

    def push_front(self, item: Q) -> None:
        """Back to the head: it was admitted once and has work to lose."""
        self._lines.setdefault(item.tenant, deque()).appendleft(item)
        self._lines.move_to_end(item.tenant, last=False)

    def peek(self) -> Q | None:
        for line in self._lines.values():
            return line[0]
        return None

    def pop(self) -> Q:
        tenant, line = next(iter(self._lines.items()))
        item = line.popleft()
        if line:
            self._lines.move_to_end(tenant)
        else:
            del self._lines[tenant]
        return item

    def remove(self, item: Q) -> bool:
        line = self._lines.get(item.tenant)
        if line is None or item not in line:
            return False
        line.remove(item)
        if not line:
            del self._lines[item.tenant]
        return True
