"""What a build leaves on the disk that all workers share, and what the next one clears away."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.data_governance.build.spill import whole


def test_a_part_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> None:
        with whole(tmp_path / "part-00000") as folder:
            (folder / "rows").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert list(tmp_path.iterdir()) == []


def test_whoever_is_second_leaves_the_part_of_the_first(tmp_path: Path) -> None:
    with whole(tmp_path / "part-00000") as late:
        with whole(tmp_path / "part-00000") as early:
            (early / "rows").write_text("first")
        (late / "rows").write_text("second")
    assert (tmp_path / "part-00000" / "rows").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000"]
