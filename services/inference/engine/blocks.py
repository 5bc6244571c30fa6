"""Hands out the fixed-size blocks of the KV cache, and finds again what full ones hold: the prefix cache.

Knows neither tensors nor tokens, only the keys under which full blocks are remembered. A block is shared by every
sequence whose text begins alike, and a full one that nobody uses keeps its key until it is needed for something else.
The keys are salted by tenant and adapter: sharing further would tell, by the time an answer takes, what others have
asked; and an adapter computes keys and values of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Rows

# Never handed out: the padding of a block table points at it, so a gather always reads finite memory.
PADDING_BLOCK = 0


class BlockAllocator:
    """Blocks 1..n of `block_size` tokens each; a sequence's block table is the list of those it holds."""

    def __init__(self, tokens: int, block_size: int) -> None:
        self.block_size = block_size
        self.total = tokens // block_size
        # Of those that nobody holds, the least recently used is the first.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, self.total + 1))
        self._holders: dict[int, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """Blocks that nobody holds, remembered ones included."""
        return len(self._free)

    @property
    def capacity_tokens(self) -> int:
        return self.total * self.block_size

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks of one's own, or None (and nothing taken) when there are not as many."""
        if count > len(self._free):
            return None
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._forget(block)
            self._holders[block] = 1
        return taken

    def give_back(self, blocks: Rows[int]) -> None:
        """One holder less for each. The last of a table are taken for something else before the first."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if not self._holders[block]:
                del self._holders[block]
                self._free[block] = None

    def remember(self, block: int, key: bytes) -> None:
        """Say what a full block holds. The first block of a key stays the one that is found."""
        if key not in self._block_of and block not in self._key_of:
            self._key_of[block] = key
            self._block_of[key] = block

    def find(self, keys: Rows[bytes]) -> list[int]:
        """The remembered blocks of as many of the first keys as there are without a gap; nothing is held yet."""
        found = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def hold(self, blocks: Rows[int]) -> None:
        """One holder more for each."""
        for block in blocks:
            self._free.pop(block, None)
            self._holders[block] = self._holders.get(block, 0) + 1

    def unheld(self, blocks: Rows[int]) -> int:
        """How many of `blocks` nobody holds."""
        return sum(block in self._free for block in blocks)

    def spoil(self, blocks: Rows[int]) -> list[int]:
        """Forget what these hold, as it must not be found again; returns those that nobody else holds."""
        for block in blocks:
            self._forget(block)
        return [block for block in blocks if self._holders.get(block) == 1]

    def _forget(self, block: int) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._block_of[key]
