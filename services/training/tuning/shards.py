"""A model's layers one by one: compiled, or sharded where accelerate would not by itself."""

from __future__ import annotations

from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType


def compile_layers(model: Any) -> None:
    """Compile each of the repeated layers in place: minutes less than the whole model, for nearly its speed."""
    repeated = set(model._no_split_modules or ())
    for module in model.modules():
        if type(module).__name__ in repeated:
            module.compile(dynamic=True)


def shard_on_cpu() -> None:
    """Let accelerate shard over gloo processes on CPUs as it does over GPUs; it takes FSDP for accelerators alone."""
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
