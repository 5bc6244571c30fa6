"""Keys and values in blocks, each layer's in a tensor of its own. Knows no sequence, only numbers of blocks."""

from __future__ import annotations

import torch


class PagedCache:
    """Keys and values of every layer: per layer one tensor each, (blocks, kv heads, block size, head size).

    With the heads outside the block's tokens, a gather by (block, head) yields a contiguous
    (sequences, kv heads, length, head size), which batched matmul reads far faster than a strided view.
    Layers are allocated when first written, in the shape that the model itself produces.
    """

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        self._scratch: dict[str, torch.Tensor] = {}

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, index: torch.Tensor) -> None:
        """Store (tokens, kv heads, head size) at `index`: see `StepBatch.write_index`."""
        self.reserve(layer, key, value)
        for store, new in ((self.keys[layer], key), (self.values[layer], value)):
            store.view(-1, new.shape[2]).index_copy_(0, index, new.reshape(-1, new.shape[2]))

    def reserve(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Allocate a layer, for keys and values like these, if it is not yet."""
        if layer not in self.keys:
            self.keys[layer] = self._allocate(key)
            self.values[layer] = self._allocate(value)

    def gather(self, layer: int, index: torch.Tensor, sequences: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, (sequences, kv heads, length, head size), of the blocks in `index`.

        They lie in memory that the next gather uses again: megabytes fresh from the system for each layer
        cost more in page faults than the copy itself.
        """
        return (
            self.gathered("keys", self.keys[layer], index, sequences),
            self.gathered("values", self.values[layer], index, sequences),
        )

    def gathered(self, kind: str, store: torch.Tensor, index: torch.Tensor, sequences: int) -> torch.Tensor:
        """As `gather`, of one of its stores; what the last one of this `kind` gave is written over."""
        blocks, heads, size, width = store.shape
        out = self._room(kind, index.shape[0] * size * width, store).view(-1, size * width)
        torch.index_select(store.view(blocks * heads, size * width), 0, index, out=out)
        return out.view(sequences, heads, -1, width)

    def _room(self, kind: str, count: int, like: torch.Tensor) -> torch.Tensor:
        """`count` elements of scratch memory; grown by doubling."""
        scratch = self._scratch.get(kind)
        if scratch is None or scratch.numel() < count:
            scratch = torch.empty(1 << (count - 1).bit_length(), dtype=like.dtype, device=like.device)
            self._scratch[kind] = scratch
        return scratch[:count]

    def scrub(self, blocks: list[int]) -> None:
        """Zero these blocks, so that a non-finite value can never reach their next owner."""
        for stores in (self.keys, self.values):
            for store in stores.values():
                store[blocks] = 0

    def bytes(self) -> int:
        return sum(s.nbytes for stores in (self.keys, self.values) for s in stores.values())

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        shape = (self.blocks, like.shape[1], self.block_size, like.shape[2])
        return torch.zeros(shape, dtype=like.dtype, device=like.device)


def by_head(blocks: torch.Tensor, heads: int) -> torch.Tensor:
    """(sequences, blocks) -> rows of the cache seen as (blocks x heads, ...), by sequence, head, block."""
    head = torch.arange(heads, device=blocks.device).view(1, heads, 1)
    return (blocks.unsqueeze(1) * heads + head).reshape(-1)
