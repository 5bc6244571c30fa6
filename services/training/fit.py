"""Whether a run fits into memory, by what its first step really took. Knows no model and no way of training.

Gateway and trainer choose by estimates; here the numbers are known: weights, gradients and activations have been there,
and what the optimizer is about to keep can be counted.
"""

from __future__ import annotations

import gc
import resource
import sys
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from services.training.devices import peak_resident_bytes, processor_name, ram_limit
from services.training.run import Run
from shared.errors import HeliuError

# Running means that Adam and its kin keep of each trained number; others keep one at most.
_MEANS = {"Adam": 2, "AdamW": 2, "NAdam": 2, "RAdam": 2}


def watch(run: Run) -> None:
    """Look once, before the first step of any optimizer of this process; that step raises HeliuError `does_not_fit`.

    On a CPU the process may also take no more than there is: it then fails with a reason, where the kernel would kill
    it, or a neighbour.
    """
    if not torch.cuda.is_available():
        limit = ram_limit()
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    handles: list[Any] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for handle in handles:
            handle.remove()
        check(run, measured(optimizer))

    handles.append(register_optimizer_step_pre_hook(look))


def measured(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`peak` bytes of the first step so far, `optimizer` bytes that come on top, and the `limit` of both; beside them
    how many `parameters` the process holds, in how many bytes of `weights`."""
    stepped = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    kept = 0 if optimizer.state else _MEANS.get(type(optimizer).__name__, 1)
    held = {id(p): p for p in gc.get_objects() if issubclass(type(p), torch.nn.Parameter)}.values()
    if torch.cuda.is_available():
        device, peak, limit = "cuda", torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1]
    else:
        device, peak, limit = "cpu", peak_resident_bytes(), ram_limit()
    return {
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else processor_name(),
        "parameters": sum(p.numel() for p in held),
        "trained": sum(p.numel() for p in held if p.requires_grad),
        "weights": sum(p.numel() * p.element_size() for p in held),
        "optimizer": kept * sum(p.numel() * p.element_size() for p in stepped),
        "peak": peak,
        "limit": limit,
    }


def check(run: Run, found: dict[str, Any]) -> None:
    """Tell what the first step took. Raises HeliuError where the next one would not fit."""
    needed = found["peak"] + found["optimizer"]
    told = (
        f"{_mib(found['peak'])} of memory at the peak of the first step, {_mib(found['optimizer'])} more for the "
        f"optimizer, of {_mib(found['limit'])}"
    )
    if needed > found["limit"]:
        raise HeliuError(
            f"the run does not fit into this worker: {told}; a smaller batch_size or max_length, method 'lora' or "
            "gradient checkpointing need less",
            code="does_not_fit",
            param="hyperparameters.batch_size",
        )
    run.event(told, data={"memory": found})


def peak() -> int:
    """The most memory that this process has had: of its GPU where it computed on one."""
    if "torch" in sys.modules and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return peak_resident_bytes()


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
