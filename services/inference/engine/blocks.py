"""Hands out the fixed-size blocks of the KV cache. Knows neither tensors nor what is written in a block."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

# Never handed out: the padding of a block table points at it, so a gather always reads finite memory.
PADDING_BLOCK = 0


class BlockAllocator:
    """Blocks 1..n of `block_size` tokens each; a sequence's block table is the list of those it took."""

    def __init__(self, tokens: int, block_size: int) -> None:
        self.block_size = block_size
        self.total = tokens // block_size
        self._free: deque[int] = deque(range(1, self.total + 1))

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def capacity_tokens(self) -> int:
        return self.total * self.block_size

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks, or None (and nothing taken) when there are not as many."""
        if count > len(self._free):
            return None
        return [self._free.popleft() for _ in range(count)]

    def give_back(self, blocks: Iterable[int]) -> None:
        self._free.extend(blocks)
