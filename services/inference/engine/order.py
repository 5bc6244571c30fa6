"""The order of a step's rows: their tokens lie by adapter, and attention reads decodes by slot and length.

Knows no model and no cache but the blocks' numbers.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from services.inference.engine.blocks import PADDING_BLOCK
from services.inference.engine.decode_rows import DecodeGroup
from services.inference.engine.decode_slots import cut
from services.inference.engine.scheduler import Row

# A new group of gathered keys and values is opened when padding would cost more than one more round of small matmuls.
_GROUP_WASTE_TOKENS = 512
# A group's gathered keys and values do not grow past this, which bounds the memory that they take.
_GROUP_TOKENS = 4_096


@dataclass(frozen=True)
class Order:
    """A step's rows as their tokens lie in it: those of one token first.

    `reading` are the latter as attention reads them: the first `placed`, which are in slots, then by length.
    """

    rows: list[Row]
    reading: list[Row]
    placed: int = 0

    def there(self) -> list[int] | None:
        """Where each of `reading` lies; None where all lie as they are read."""
        if self.reading == self.rows[: len(self.reading)]:
            return None
        place = {row.sequence: number for number, row in enumerate(self.rows[: len(self.reading)])}
        return [place[row.sequence] for row in self.reading]

    def groups(self, block_size: int, device: torch.device) -> list[DecodeGroup]:
        """The decodes without a slot, by length, in groups that little is padded in."""
        groups = []
        rows = self.reading[self.placed :]
        lengths = [row.start + 1 for row in rows]
        for start, end in cut(lengths, waste=_GROUP_WASTE_TOKENS, most=_GROUP_TOKENS):
            longest = lengths[end - 1]
            count = -(-longest // block_size)
            tables = [
                row.sequence.blocks[:count] + [PADDING_BLOCK] * (count - len(row.sequence.blocks))
                for row in rows[start:end]
            ]
            groups.append(
                DecodeGroup(
                    self.placed + start,
                    self.placed + end,
                    torch.tensor(lengths[start:end], device=device),
                    longest,
                    count * block_size,
                    torch.tensor(tables, device=device),
                )
            )
        return groups


def ordered(
    reading: Rows[Row], chunks: Rows[Row], adapters: Rows[int], *, placed: int = 0, as_read: bool = False
) -> Order:
    """Decodes and then chunks, both by adapter; `adapters` are the slots of both, one after the other, -1 for none.

    `as_read` leaves the decodes where attention reads them.
    """
    if not any(slot >= 0 for slot in adapters):
        return Order([*reading, *chunks], list(reading), placed)
    slot = {row.sequence: slot for row, slot in zip([*reading, *chunks], adapters, strict=True)}
    lying = list(reading) if as_read else sorted(reading, key=lambda row: slot[row.sequence])
    return Order([*lying, *sorted(chunks, key=lambda row: slot[row.sequence])], list(reading), placed)
