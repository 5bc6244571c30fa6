"""What a trained model records of how it was made."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from services.training.lineage import git_commit, lineage, settings_in, source_hash
from shared.contracts.training import BaseRef, DataRef, FineTune, Pretrain

VERSION = DataRef(id="dsv-1", kind="version", artifact="a")
FILE = DataRef(id="file-1", kind="file", artifact="b")


def recorded(payload: dict[str, Any], **changes: Any) -> dict[str, Any]:
    given = {"kind": "k", "job_id": "j", "trace_id": "t", "resolved": {}, "libraries": {}, "metrics": {}}
    return lineage(payload, **{**given, **changes})


def test_data_base_seed_and_settings_are_those_of_the_job() -> None:
    job = FineTune(base=BaseRef(model="base", base_artifact="c"), training=FILE, validation=VERSION, seed=7)
    told = recorded(job.dump(), resolved={"batch_size": 16}, libraries={"torch": "2"}, metrics={"loss": 0.5})
    assert (told["dataset_version"], told["file"], told["validation"], told["base"]) == (
        None,
        "file-1",
        "dsv-1",
        "base",
    )
    assert (told["seed"], told["libraries"], told["metrics"]) == (7, {"torch": "2"}, {"loss": 0.5})
    assert (told["hyperparameters"]["batch_size"], told["hyperparameters"]["n_epochs"]) == (16, "auto")
    assert set(told["code"]) >= {"version", "source"}
    assert (told["job_id"], told["job_kind"], told["trace_id"]) == ("j", "k", "t")


def test_a_job_without_a_base_names_its_version() -> None:
    told = recorded(Pretrain(name="small", data=VERSION).dump())
    assert (told["dataset_version"], told["base"], told["validation"]) == ("dsv-1", None, None)


def test_what_an_event_tells_of_the_settings_is_taken_and_no_more() -> None:
    payload = {"hyperparameters": {"lora_r": "auto"}}
    told = {"lora_r": 8, "batch_size": 4, "sequences": 100}
    assert settings_in(told, payload) == {"lora_r": 8, "batch_size": 4}
    assert settings_in(None, payload) == {}


def test_the_hash_is_of_names_and_bytes_of_the_source(tmp_path: Path) -> None:
    for name in ("services", "shared"):
        (tmp_path / name).mkdir()
    (tmp_path / "services" / "a.py").write_text("x = 1\n")
    first = source_hash(tmp_path)
    (tmp_path / "services" / "notes.txt").write_text("not code")
    assert source_hash(tmp_path) == first
    (tmp_path / "services" / "a.py").write_text("x = 2\n")
    changed = source_hash(tmp_path)
    (tmp_path / "services" / "a.py").rename(tmp_path / "services" / "b.py")
    assert len({first, changed, source_hash(tmp_path)}) == 3


def test_the_commit_is_found_loose_and_packed(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        options = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        done = subprocess.run(
            ["git", *options, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert git_commit(tmp_path) is None
    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert git_commit(tmp_path) == head
    git("pack-refs", "--all")
    assert git_commit(tmp_path) == head
    git("checkout", "-q", "--detach")
    assert git_commit(tmp_path) == head
