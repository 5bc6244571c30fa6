"""The processes that one run is trained by: how many, which one this is, and how they agree. One without a launcher."""

from __future__ import annotations

import os
from typing import TypeVar

import torch

T = TypeVar("T")


def size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def join(device: torch.device) -> None:
    """Meet the other processes; whatever moves weights later finds them met."""
    if size() > 1 and not torch.distributed.is_initialized():
        # On GPUs, too, what is gathered whole goes to a CPU.
        torch.distributed.init_process_group("cuda:nccl,cpu:gloo" if device.type == "cuda" else "gloo")


def told(value: T) -> T:
    """The first process's value, of anything that can be pickled, in all of them."""
    if size() == 1:
        return value
    held = [value]
    torch.distributed.broadcast_object_list(held, src=0)
    return held[0]


def agreed(values: list[int]) -> list[int]:
    """The values of the first process, in all of them."""
    if size() == 1:
        return values
    device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    held = torch.tensor(values, dtype=torch.int64, device=device)
    torch.distributed.broadcast(held, src=0)
    return [int(value) for value in held.tolist()]


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, on the CPU."""
    if size() > 1:
        torch.distributed.all_reduce(values)
    return values


def together() -> None:
    """Wait until all processes are here."""
    if size() > 1:
        torch.distributed.barrier()
