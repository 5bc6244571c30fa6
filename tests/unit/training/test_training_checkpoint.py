"""Checkpoints: whole or refused, named by content, only the last few kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from services.training.checkpoint import CheckpointStore, fingerprint, held, verify
from shared.errors import InvalidInput


def _filler(content: str):  # type: ignore[no-untyped-def]
    def fill(folder: Path) -> None:
        (folder / "a.bin").write_text(content)
        (folder / "sub").mkdir()
        (folder / "sub" / "b.bin").write_text(content * 2)

    return fill


def test_what_was_written_is_verified(tmp_path: Path) -> None:
    made = CheckpointStore(tmp_path, "f").write(7, _filler("x"), {"train_loss": 1.5})
    found = verify(made.path, fingerprint="f")
    assert found == made
    assert (found.step, found.metrics) == (7, {"train_loss": 1.5})


@pytest.mark.parametrize("harm", ["change", "cut", "remove", "add", "manifest", "no manifest"])
def test_a_torn_one_is_refused(tmp_path: Path, harm: str) -> None:
    path = CheckpointStore(tmp_path, "f").write(1, _filler("xyz"), {}).path
    match harm:
        case "change":
            (path / "a.bin").write_text("xyy")
        case "cut":
            (path / "sub" / "b.bin").write_text("")
        case "remove":
            (path / "a.bin").unlink()
        case "add":
            (path / "c.bin").write_text("")
        case "manifest":
            (path / "manifest.json").write_text("{")
        case "no manifest":
            (path / "manifest.json").unlink()
    with pytest.raises(InvalidInput) as caught:
        verify(path)
    assert caught.value.code == "invalid_checkpoint"


def test_one_of_another_run_is_refused(tmp_path: Path) -> None:
    made = CheckpointStore(tmp_path, "f").write(1, _filler("x"), {})
    with pytest.raises(InvalidInput, match="another run"):
        verify(made.path, fingerprint="g")


def test_the_last_two_are_kept_and_the_one_resumed_from(tmp_path: Path) -> None:
    first = CheckpointStore(tmp_path, "f").write(1, _filler("1"), {})
    store = CheckpointStore(tmp_path, "f", resumed=first.path)
    later = [store.write(step, _filler(str(step)), {}) for step in (2, 3, 4)]
    assert {p.name for p in tmp_path.iterdir()} == {c.path.name for c in [first, *later[1:]]}


def test_a_step_written_twice_with_the_same_content_is_one_folder(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "f")
    assert store.write(1, _filler("x"), {}).path == store.write(1, _filler("x"), {}).path
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_publishes_nothing_and_is_swept_later(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "a.bin").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        CheckpointStore(tmp_path, "f").write(1, fill, {})
    assert not list(tmp_path.glob("checkpoint-*"))
    CheckpointStore(tmp_path, "f")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("times", [10, pytest.param(50, marks=pytest.mark.long)])
def test_a_kill_at_any_moment_leaves_only_whole_ones(tmp_path: Path, times: int) -> None:
    """A writer in a loop, killed with SIGKILL again and again; each time every visible folder verifies."""
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from services.training.checkpoint import CheckpointStore
        store = CheckpointStore(Path(sys.argv[1]), "f")
        def fill(folder):
            for name in range(20):
                (folder / f"{name}.bin").write_bytes(bytes([step % 256]) * 20_000)
        for step in range(int(sys.argv[2]), 10**6):
            store.write(step, fill, {})
            print(step, flush=True)
    """)
    for kills, start in enumerate(range(0, 100 * times, 100)):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(start)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            for _ in range(1 + kills % 3):
                writer.stdout.readline()
            os.kill(writer.pid, signal.SIGKILL)
        seen = list(tmp_path.glob("checkpoint-*"))
        assert seen
        for path in seen:
            verify(path)


def test_the_fingerprint_follows_content_and_not_places(tmp_path: Path) -> None:
    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).write_text(content)
    mark = {name: fingerprint({"seed": 1}, {"train": [tmp_path / name]}) for name in "abc"}
    assert mark["a"] == mark["b"] != mark["c"]
    assert fingerprint({"seed": 2}, {"train": [tmp_path / "a"]}) != mark["a"]


def test_one_that_is_being_stored_stays_until_it_is(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "f")
    slow = store.write(1, _filler("1"), {}).path
    with held(slow) as there:
        assert there
        for step in (2, 3, 4):
            store.write(step, _filler(str(step)), {})
        assert verify(slow).step == 1
        assert len(list(tmp_path.glob("checkpoint-*"))) == 3
    newest = store.write(5, _filler("5"), {}).path
    assert not slow.exists()
    with held(slow) as there:
        assert not there
    with held(newest) as there:
        assert there
