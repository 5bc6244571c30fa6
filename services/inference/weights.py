"""What a model's files are, by their bytes: pickles in disguise, and safetensors whose header tells the truth.

Reads headers only, with the standard library: nothing here can run what a file holds.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import HeliuError

MAX_HEADER = 100 * 1024 * 1024
MAX_TEXT = 256 * 1024 * 1024
MAX_TENSORS = 1_000_000
# Bits of an element: https://github.com/huggingface/safetensors#format
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
}
# A pickle of protocol 2 to 5 begins so; torch.save wraps one in a zip; the last two are joblib's gzip and xz.
PICKLE_MAGIC = (*(bytes([0x80, version]) for version in range(2, 6)), b"PK\x03\x04", b"\x1f\x8b", b"\xfd7zXZ")


class UnsafeBytes(HeliuError):
    """A file is something else than its name says, and may run code when it is read."""

    code = "model_unsafe"


class BrokenWeights(HeliuError):
    """A file of weights is cut, or claims what it does not hold."""

    code = "model_unreadable"


@dataclass(frozen=True)
class Weights:
    """All tensors of a folder together: `dtypes` counts their elements, `bytes` is what they take."""

    tensors: int
    elements: int
    bytes: int
    dtypes: dict[str, int]

    @property
    def dtype(self) -> str:
        """What most elements are kept as."""
        return max(self.dtypes, key=lambda name: self.dtypes[name], default="")


def read_weights(folder: Path) -> Weights:
    """Look at every file of `folder`. Raises UnsafeBytes or BrokenWeights, naming the file."""
    names: set[str] = set()
    dtypes: dict[str, int] = {}
    size = 0
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        _refuse_pickle(file, name)
        if file.suffix != ".safetensors":
            if file.stat().st_size > MAX_TEXT:
                raise BrokenWeights(f"{name} has {file.stat().st_size} bytes; at most {MAX_TEXT} are read")
            continue
        for tensor, dtype, elements, length in _tensors(file, name):
            if tensor in names and file.parent == folder:
                raise BrokenWeights(f"the tensor {tensor!r} is in {name} and in another file too")
            names.add(tensor)
            dtypes[dtype] = dtypes.get(dtype, 0) + elements
            size += length
    return Weights(len(names), sum(dtypes.values()), size, dtypes)


def _refuse_pickle(file: Path, name: str) -> None:
    with file.open("rb") as source:
        head = source.read(8)
    # A safetensors file begins with the length of its header, which can look like any of these; its ninth byte can't.
    if file.suffix == ".safetensors" and _begins_as_safetensors(file):
        return
    if any(head.startswith(magic) for magic in PICKLE_MAGIC):
        raise UnsafeBytes(
            f"{name} is a pickle or an archive by its first bytes, whatever its name says; it could run code when "
            "read. Convert the weights to .safetensors"
        )


def _begins_as_safetensors(file: Path) -> bool:
    with file.open("rb") as source:
        return source.read(9)[8:] == b"{"


def _tensors(file: Path, name: str) -> list[tuple[str, str, int, int]]:
    """(name, dtype, elements, bytes) of each tensor, of a file whose header agrees with its length."""
    size = file.stat().st_size
    with file.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise BrokenWeights(
                f"{name} is no whole safetensors file: its header should have {length} bytes, the file has {size}"
            )
        header = _header(source.read(length), name)
    found, end = [], 0
    for tensor, entry in header.items():
        elements, begins, ends = _checked(entry, tensor, name)
        found.append((tensor, str(entry["dtype"]), elements, ends - begins))
        end = max(end, ends)
    if end != size - 8 - length:
        raise BrokenWeights(
            f"{name} is cut or has something behind its tensors: they end at byte {end}, the file holds "
            f"{size - 8 - length}"
        )
    return found


def _header(raw: bytes, name: str) -> dict[str, Any]:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise BrokenWeights(f"the header of {name} is not JSON: {exc}") from exc
    if not isinstance(header, dict):
        raise BrokenWeights(f"the header of {name} is no JSON object")
    header.pop("__metadata__", None)
    if not 0 < len(header) <= MAX_TENSORS:
        raise BrokenWeights(f"{name} holds {len(header)} tensors; there must be 1 to {MAX_TENSORS}")
    return header


def _checked(entry: Any, tensor: str, name: str) -> tuple[int, int, int]:
    """(elements, begin, end), where the three agree."""
    try:
        bits, shape, (begins, ends) = BITS[entry["dtype"]], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begins, ends]
        good = all(type(n) is int and 0 <= n < 2**63 for n in numbers) and len(shape) <= 8
    except (TypeError, KeyError, ValueError) as exc:
        raise BrokenWeights(f"the header of {name} does not describe {tensor[:80]!r} well: {exc!r}") from exc
    elements = math.prod(shape) if good else 0
    if not good or elements * bits != (ends - begins) * 8:
        raise BrokenWeights(
            f"{name} says that {tensor[:80]!r} is {entry['dtype']} of shape {str(shape)[:80]}, but keeps other than "
            "that many bytes for it"
        )
    return elements, begins, ends
