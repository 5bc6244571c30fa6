"""What a worker says that it computes on: GPUs as CUDA would show them, or the memory that its group may use."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from services.training import devices
from services.training.devices import Device, find_device, ram_limit

TWO = "0, GPU-aa11, NVIDIA H200, 143771\n1, GPU-bb22, NVIDIA H200, 143771\n"
EACH = 143771 * 2**20


@pytest.fixture(autouse=True)
def _cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "torch_has_cuda", lambda: True)


@pytest.mark.parametrize(
    ("visible", "count"),
    [(None, 2), ("0,1", 2), ("1", 1), ("GPU-bb", 1), ("1,7,0", 1)],
)
def test_the_gpus_are_those_that_cuda_would_show(visible: str | None, count: int) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert find_device(environ, lambda: TWO) == Device("cuda", "NVIDIA H200", count, count * EACH)


def test_a_part_of_a_gpu_has_no_known_size() -> None:
    found = find_device({"CUDA_VISIBLE_DEVICES": "MIG-1234"}, lambda: TWO)
    assert (found.device, found.memory_bytes) == ("cuda", None)


def test_without_a_gpu_or_with_none_to_be_seen_it_is_the_processor() -> None:
    def gone() -> str:
        raise FileNotFoundError("nvidia-smi")

    for found in (find_device({}, gone), find_device({"CUDA_VISIBLE_DEVICES": ""}, lambda: TWO)):
        assert found.device == "cpu"
        assert found.memory_bytes == ram_limit() <= psutil.virtual_memory().total


def test_a_build_without_cuda_computes_on_the_processor_beside_any_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "torch_has_cuda", lambda: False)
    assert find_device({}, lambda: TWO).device == "cpu"


@pytest.mark.parametrize("version", [1, 2])
def test_the_least_limit_of_all_groups_counts(tmp_path: Path, version: int) -> None:
    line = "0::/pods/one\n" if version == 2 else "7:cpu:/x\n5:memory:/pods/one\n"
    root, name = (tmp_path, "memory.max") if version == 2 else (tmp_path / "memory", "memory.limit_in_bytes")
    (root / "pods" / "one").mkdir(parents=True)
    (tmp_path / "own").write_text(line)
    (root / "pods" / "one" / name).write_text("max\n" if version == 2 else str(2**63 - 4096))
    assert ram_limit(tmp_path, tmp_path / "own") == psutil.virtual_memory().total
    (root / "pods" / name).write_text(str(2**30))
    assert ram_limit(tmp_path, tmp_path / "own") == 2**30
    (root / "pods" / "one" / name).write_text(str(2**29))
    assert ram_limit(tmp_path, tmp_path / "own") == 2**29


def test_a_container_that_sees_only_its_own_group_is_limited_too(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/../../docker/abc\n")
    (tmp_path / "memory.max").write_text(str(2**28))
    assert ram_limit(tmp_path, tmp_path / "own") == 2**28
