"""A base of a few thousand weights, pretrained once for the modules that begin with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.training import tiny_runs


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Conversations, by split."""
    folder = tmp_path_factory.mktemp("tiny-data")
    return {
        "train": tiny_runs.write(folder / "train.jsonl", tiny_runs.conversations(60, 3)),
        "validation": tiny_runs.write(folder / "validation.jsonl", tiny_runs.conversations(12, 4)),
    }


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory, tiny_data: dict[str, list[str]]) -> Path:
    """Its folder; what the engine is held against lies in its run's folder `parity`."""
    folder = tmp_path_factory.mktemp("tiny-base")
    tiny_runs.run_here(tiny_runs.spec("pretrain", folder, tiny_data, hyperparameters=tiny_runs.PRETRAIN))
    return folder / "out"
