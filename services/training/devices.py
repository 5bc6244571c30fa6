"""What a training worker computes on and how much memory that has, found without torch. Knows no job."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

CGROUPS = Path("/sys/fs/cgroup")
_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
_ASK_S = 15.0


@dataclass(frozen=True)
class Device:
    """`memory_bytes` is what one run may take, over all GPUs of the worker; None where it cannot be known."""

    device: str
    device_name: str
    devices: int
    memory_bytes: int | None

    def info(self) -> dict[str, Any]:
        return asdict(self)


def find_device(environ: Mapping[str, str], ask: Callable[[], str] | None = None) -> Device:
    """The worker's GPUs as torch will see them, or else its processor with the memory that its group may use.

    `ask` answers as nvidia-smi does; it raises OSError where there is none.
    """
    try:
        gpus = _gpus((ask or _nvidia_smi)(), environ.get("CUDA_VISIBLE_DEVICES")) if torch_has_cuda() else []
    except (OSError, subprocess.SubprocessError, ValueError):
        gpus = []
    if gpus:
        memory = sum(size for _, size in gpus if size is not None)
        known = all(size is not None for _, size in gpus)
        return Device("cuda", gpus[0][0], len(gpus), memory if known else None)
    return Device("cpu", processor_name(), os.cpu_count() or 1, ram_limit())


def torch_has_cuda() -> bool:
    """By the name of the installed build alone."""
    try:
        return not version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def _nvidia_smi() -> str:
    return subprocess.run(_QUERY, check=True, capture_output=True, text=True, timeout=_ASK_S).stdout


def _gpus(listed: str, visible: str | None) -> list[tuple[str, int | None]]:
    """(name, bytes) of the GPUs that `CUDA_VISIBLE_DEVICES` lets through; a part of a GPU (MIG) has no known size."""
    found = []
    for line in filter(None, map(str.strip, listed.splitlines())):
        index, uuid, name, mebibytes = (field.strip() for field in line.split(",", 3))
        found.append((index, uuid, name, int(mebibytes) * 2**20))
    if visible is None:
        return [(name, size) for _, _, name, size in found]
    chosen: list[tuple[str, int | None]] = []
    for wanted in filter(None, map(str.strip, visible.split(","))):
        if wanted.startswith("MIG-"):
            chosen.append((found[0][2] if found else "GPU", None))
            continue
        match = [g for g in found if g[0] == wanted or g[1].startswith(wanted)]
        if not match:
            # As CUDA has it: what is named behind an unknown one is not seen either.
            break
        chosen.append((match[0][2], match[0][3]))
    return chosen


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def ram_limit(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of memory that this process may use: the machine's, or what its control groups (v1, v2) leave of it."""
    limits = [psutil.virtual_memory().total]
    for folder, name in _memory_groups(cgroups, own):
        try:
            text = (folder / name).read_text().strip()
        except OSError:
            continue
        # v2 says `max`, and v1 a number beyond any machine, where there is no limit.
        if text.isdecimal():
            limits.append(int(text))
    return min(limits)


def _memory_groups(cgroups: Path, own: Path) -> list[tuple[Path, str]]:
    """(folder, file with the limit) of each group that this process is in, up to the root."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        found += [(root.joinpath(*parts[:depth]), name) for depth in range(len(parts), -1, -1)]
    return found


def resident_bytes() -> int:
    """Memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """The most that this process has had since it began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
