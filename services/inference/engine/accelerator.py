"""What a device offers beyond plain torch: kernels, recorded steps, and how much memory it has. Knows no model.

"auto" is settled here: a GPU and bfloat16 where torch sees one, else the CPU and float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn

from services.inference.engine import kernels, paged_decode
from services.inference.engine.gpu_attention import Kernels
from services.inference.engine.graphs import CudaRecorder, Record
from shared.errors import ConfigurationError

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")
# Flash-attention 2, which `varlen_attn` is by default, and Triton's products in bfloat16 begin with Ampere.
_LEAST_CAPABILITY = (8, 0)
# Of a GPU's memory, what bases and encoders may take where no limit was set: computing needs some too.
_MODELS_SHARE = 0.9
# Where the weights are read once for thousands of tokens, and a step of live answers still is tens of milliseconds.
_GPU_STEPS = {"step_tokens": 4_096, "live_step_tokens": 512}


@dataclass(frozen=True)
class Accelerator:
    """A device's kernels, how it records a step (None where it cannot), and its free memory in bytes, if limited."""

    kernels: Kernels
    record: Record | None
    free_bytes: Callable[[], int] | None = None


def settled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an EngineConfig with device, dtype, length of steps and room for models as they suit this machine.

    Raises ConfigurationError for a device or dtype that is none, or not here.
    """
    device = settled_device(options.get("device", "auto"))
    dtype = settled_dtype(options.get("dtype", "auto"), device)
    found = {**options, "device": device, "dtype": dtype}
    if device == "cuda":
        found = {**_GPU_STEPS, **found}
        memory = torch.cuda.get_device_properties(torch.device(device)).total_memory
        found["max_model_bytes"] = options.get("max_model_bytes") or int(_MODELS_SHARE * memory)
    return found


def settled_device(device: str) -> str:
    """cpu or cuda. Raises ConfigurationError where torch does not have it."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise ConfigurationError(
            f"device must be auto, cpu or cuda, got {device!r}; CUDA_VISIBLE_DEVICES chooses among GPUs",
            param="device",
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("device is 'cuda', but torch sees no GPU here", param="device")
    return device


def settled_dtype(dtype: str, device: str) -> str:
    """The name of the weights' type. Raises ConfigurationError for one that is not served."""
    if dtype == "auto":
        if torch.device(device).type == "cpu":
            return "float32"
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if dtype not in DTYPES:
        raise ConfigurationError(
            f"dtype must be auto, {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, got {dtype!r}", param="dtype"
        )
    return dtype


def accelerator_of(device: torch.device) -> Accelerator | None:
    """The GPU's kernels; None on a CPU, or where Triton is missing or the GPU too old for them."""
    if device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(device)
    if not kernels.AVAILABLE or capability < _LEAST_CAPABILITY:
        log.warning(
            "no kernels for this GPU, plain attention serves: Triton is %s, capability %d.%d",
            "here" if kernels.AVAILABLE else "missing",
            *capability,
        )
        return None
    found = Kernels(paged_decode.write, paged_decode.decode, varlen_attn)
    return Accelerator(found, CudaRecorder(), partial(free_bytes, device))


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that nothing holds, what torch keeps in reserve included."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def describe(device: str) -> str:
    """One line for a start log."""
    if torch.device(device).type != "cuda":
        return f"{device}, {torch.get_num_threads()} threads"
    found = torch.cuda.get_device_properties(torch.device(device))
    return f"{device}, {found.name}, {found.total_memory / 2**30:.0f} GiB"
