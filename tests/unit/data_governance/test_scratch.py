"""What an attempt leaves on the disk of its worker, and what it clears away."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.data_governance.scratch import scratch_folder


def test_an_attempt_clears_what_killed_ones_left_and_spares_newer_ones_and_other_jobs(tmp_path: Path) -> None:
    for name in ("dsjob-1.1", "dsjob-1.2", "dsjob-1.4", "dsjob-2.1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spill.jsonl").write_text("13800138000")
    with scratch_folder(tmp_path, "dsjob-1", 3) as folder:
        (folder / "data").mkdir()
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {folder.name, "dsjob-1.4", "dsjob-2.1"}
    assert not folder.exists()


def _fail_in(work: Path) -> None:
    with scratch_folder(work, "dsjob-1", 1) as folder:
        (folder / "spill.jsonl").write_text("x")
        raise RuntimeError


def test_an_attempt_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        _fail_in(tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []
