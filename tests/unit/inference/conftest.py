"""One thread for torch: for tiny models more only wait for each other, the more so on a busy machine."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
