"""The processes that one run is trained by: how many, which one this is, and how they agree. One without a launcher."""

from __future__ import annotations

import os

import torch


def size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def agreed(values: list[int]) -> list[int]:
    """The values of the first process, in all of them."""
    if size() == 1:
        return values
    device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    held = torch.tensor(values, dtype=torch.int64, device=device)
    torch.distributed.broadcast(held, src=0)
    return [int(value) for value in held.tolist()]


def together() -> None:
    """Wait until all processes are here."""
    if size() > 1:
        torch.distributed.barrier()
