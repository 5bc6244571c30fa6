"""`python compile_kernels.py CAPABILITY DTYPE...`: the Triton kernels down to a GPU's machine code; a line for each."""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from services.inference.engine.kernels import decode_kernel, join_kernel, write_kernel

STRIDES = {"query_row_stride": "i32", "query_head_stride": "i32"}
NEW = ("key_row_stride", "key_head_stride", "value_row_stride", "value_head_stride")


def compiled(kernel: Any, signature: dict[str, str], constants: dict[str, Any], capability: int) -> None:
    source = ASTSource(
        fn=kernel,
        signature={**signature, **dict.fromkeys(constants, "constexpr")},
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
    print(kernel.__name__, len(code.asm["cubin"]))


def main() -> int:
    capability = int(sys.argv[1])
    for dtype in sys.argv[2:]:
        tensor = f"*{dtype}"
        decode = dict.fromkeys(("out", "query", "keys", "values"), tensor)
        decode |= {"partial": "*fp32", "weights": "*fp32", "lengths": "*i64", "starts": "*i64"}
        decode |= {"blocks": "*i64", "scale": "fp32", **STRIDES}
        ordered = {name: decode[name] for name in decode_kernel.arg_names if name in decode}
        shape = {"HEADS": 8, "SIZE": 16, "TILE": 32, "WIDEN": False}
        for group, width, room, splits, window in ((4, 128, 128, 8, 0), (1, 80, 128, 1, 4096)):
            widths = {"KEY_WIDTH": width, "KEY_ROOM": room, "VALUE_WIDTH": width, "VALUE_ROOM": room}
            groups = {"GROUP": group, "GROUP_ROOM": 16 if group > 1 else 1, "WINDOW": window}
            compiled(decode_kernel, ordered, {**shape, **widths, **groups, "SPLITS": splits}, capability)
        stored = dict.fromkeys(("keys", "values", "new_keys", "new_values"), tensor)
        stored |= {"slots": "*i64", **dict.fromkeys(NEW, "i32")}
        widths = {"KEY_WIDTH": 128, "VALUE_WIDTH": 80, "WIDTH": 128}
        compiled(write_kernel, stored, {"HEADS": 8, "SIZE": 16, **widths}, capability)
        joined = {"out": tensor, "partial": "*fp32", "weights": "*fp32"}
        compiled(join_kernel, joined, {"VALUE_WIDTH": 128, "VALUE_ROOM": 128, "SPLITS": 32}, capability)
    return 0


if __name__ == "__main__":
    sys.exit(main())
