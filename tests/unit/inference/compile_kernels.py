"""`python compile_kernels.py CAPABILITY DTYPE...`: every launch as the engine makes it, down to a GPU's machine code.

A driver that is none stands in for the GPU, so a launch ends where the kernel would run. Prints the kernels' names with
how often each was compiled.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from services.inference.engine.kernels import decode_kernel, join_kernel, write_kernel
from services.inference.engine.paged_decode import Decodes, decode, write

SIZE = 16


class NoGpu:
    """What Triton asks of a driver before it launches."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target


launch = JITFunction.run


def compile_alone(kernel: Any, *given: Any, grid: Any, warmup: bool, **options: Any) -> Any:
    return launch(kernel, *given, grid=grid, warmup=True, **options)


def launched(dtype: torch.dtype, heads: int, group: int, width: int, window: int | None, count: int) -> None:
    keys = torch.zeros(9, heads, SIZE, width, dtype=dtype)
    # As in a step: one tensor of numbers, of which each is a part that begins anywhere.
    numbers = torch.zeros(3 * count + 20, dtype=torch.long)
    new = torch.zeros(heads, count, width, dtype=dtype).transpose(0, 1)
    write(keys, keys.clone(), new, new, numbers[2 * count : 3 * count])
    query = torch.zeros(1, heads * group, count + 5, width, dtype=dtype)[0, :, :count].transpose(0, 1)
    rows = Decodes(numbers[:count], numbers[count : 2 * count], numbers[2 * count :])
    decode(query, keys, keys.clone(), rows, 0.1, window, splits=4)


def main() -> int:
    driver.set_active(NoGpu(int(sys.argv[1])))
    JITFunction.run = compile_alone
    for name in sys.argv[2:]:
        for count in (2, 3, 8, 61):
            launched(getattr(torch, name), 8, 4, 128, None, count)
            launched(getattr(torch, name), 2, 1, 80, 4096, count)
    for kernel in (write_kernel, decode_kernel, join_kernel):
        (compiled,) = (caches[0] for caches in kernel.device_caches.values())
        print(kernel.__name__, len(compiled))
    return 0


if __name__ == "__main__":
    sys.exit(main())
