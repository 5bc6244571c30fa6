"""A checkpoint of several processes as one reads it. Its weights are whole; the optimizer's numbers are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from services.training import world

# As accelerate and transformers name them.
_WEIGHTS, _NAMED, _NUMBERED = "pytorch_model_fsdp.bin", "optimizer.bin", "optimizer.pt"


def as_one(checkpoint: Path, workdir: Path) -> Path:
    """The same folder where one process wrote it, or several read it, else one under `workdir` with links to its files.

    The optimizer's state stands there by parameter names, in the order of its groups, in which a single process counts
    them.
    """
    if world.size() > 1 or not (checkpoint / _WEIGHTS).exists():
        return checkpoint
    folder = workdir / "unsharded"
    folder.mkdir(parents=True, exist_ok=True)
    for path in checkpoint.iterdir():
        if path.name not in (_WEIGHTS, _NAMED):
            (folder / path.name).unlink(missing_ok=True)
            (folder / path.name).symlink_to(path.resolve())
    found = torch.load(checkpoint / _NAMED, map_location="cpu", weights_only=True)
    state: dict[int, Any] = {}
    groups: list[dict[str, Any]] = []
    count = 0
    for group in found["param_groups"]:
        numbers = range(count, count + len(group["params"]))
        state |= {
            number: found["state"][name]
            for number, name in zip(numbers, group["params"], strict=True)
            if name in found["state"]
        }
        groups.append({**group, "params": list(numbers)})
        count = numbers.stop
    torch.save({"state": state, "param_groups": groups}, folder / _NUMBERED)
    return folder
