"""Whole checkpoints or none: folders written aside, synced, hashed in a manifest, then renamed. Knows no torch.

A kill at any moment leaves folders whose name starts with a dot (ignored, swept at the next start) and whole ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import InvalidInput

MANIFEST = "manifest.json"
FORMAT = 1
# So many of a run's checkpoints, the newest, are held against the engine when it has ended.
MOST_CHECKED = 5
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint folder. `fingerprint` says which run (data, seed, hyperparameters) it can continue."""

    path: Path
    step: int
    fingerprint: str
    metrics: dict[str, float]
    manifest_sha256: str


class CheckpointStore:
    """The checkpoints of one run in one folder; keeps the last `keep` that it wrote, the one it resumed from, and those
    that are `held`."""

    def __init__(self, root: Path, fingerprint: str, *, resumed: Path | None = None, keep: int = 2) -> None:
        self._root = root
        self._fingerprint = fingerprint
        self._resumed = resumed.resolve() if resumed else None
        self._keep = keep
        self._written: list[Path] = []
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(".writing-*"):
            shutil.rmtree(leftover)

    @property
    def root(self) -> Path:
        """The folder of them all, where a run may keep a file of its own beside them."""
        return self._root

    def write(self, step: int, fill: Callable[[Path], None], metrics: Mapping[str, float]) -> Checkpoint:
        """Let `fill` put files into an empty folder, then seal and publish it. OSError when the disk refuses."""
        aside = self._root / f".writing-{step:08d}-{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        fill(aside)
        digest = seal(aside, {"step": step, "fingerprint": self._fingerprint, "metrics": dict(metrics)})
        # The name carries the content, so a step written twice (after a resume) never needs to overwrite.
        final = self._root / f"checkpoint-{step:08d}-{digest[:12]}"
        if final.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(final)
            _sync_folder(self._root)
        self._written = [p for p in self._written if p != final] + [final]
        self._prune()
        return Checkpoint(final, step, self._fingerprint, dict(metrics), digest)

    def _prune(self) -> None:
        kept = set(self._written[-self._keep :])
        for path in self._root.glob("checkpoint-*"):
            if path not in kept and path.resolve() != self._resumed:
                with _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
                    if free:
                        # Out of sight first, so that a kill in mid-removal leaves no torn folder under a real name.
                        shutil.rmtree(path.rename(self._root / f".writing-doomed-{path.name}"))


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Whether a checkpoint is still there; as long as the block runs, its run leaves it there.

    Who stores checkpoints may be slower than the run that writes them.
    """
    with _locked(path, fcntl.LOCK_SH) as found:
        # It may have gone out of sight before it was locked.
        yield found and path.exists()


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[bool]:
    """Whether the folder is there and could be locked; a process that dies leaves no lock behind."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def checkpoint_samples(workdir: Path, step: int) -> Path:
    """Where a trainer leaves what the engine is held against for a checkpoint: beside it, since it quotes rows, and
    checkpoints are kept."""
    return workdir / "served" / f"{step:08d}" / "parity"


def seal(folder: Path, facts: Mapping[str, Any]) -> str:
    """Sync every file, write and sync the manifest, sync the folders. Returns the manifest's sha256."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
        files[path.relative_to(folder).as_posix()] = {
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
    body = json.dumps({"format": FORMAT, **facts, "files": files}, sort_keys=True, indent=1).encode()
    with (folder / MANIFEST).open("wb") as handle:
        handle.write(body)
        handle.flush()
        os.fsync(handle.fileno())
    for sub in [p for p in folder.rglob("*") if p.is_dir()] + [folder]:
        _sync_folder(sub)
    return hashlib.sha256(body).hexdigest()


def verify(path: Path, *, fingerprint: str | None = None) -> Checkpoint:
    """Check every file against the manifest. Raises InvalidInput `invalid_checkpoint` when torn or foreign."""
    try:
        body = (path / MANIFEST).read_bytes()
        manifest = json.loads(body)
        files = manifest["files"]
        step, found = int(manifest["step"]), str(manifest["fingerprint"])
        metrics = dict(manifest["metrics"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise _torn(path, f"its {MANIFEST} is missing or unreadable") from exc
    if manifest.get("format") != FORMAT:
        raise _torn(path, f"format {manifest.get('format')!r} is unknown, expected {FORMAT}")
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} - {MANIFEST}
    if present != set(files):
        odd = sorted(present ^ set(files))
        raise _torn(path, f"files missing or not in the manifest: {', '.join(odd[:5])}")
    for name, facts in files.items():
        if (path / name).stat().st_size != facts["bytes"] or file_sha256(path / name) != facts["sha256"]:
            raise _torn(path, f"{name} differs from the manifest")
    if fingerprint is not None and found != fingerprint:
        raise InvalidInput(
            f"checkpoint {path.name} belongs to another run (other data, seed, base or hyperparameters); "
            "resume it with those it was written with",
            code="invalid_checkpoint",
            param="resume_from",
        )
    return Checkpoint(path, step, found, metrics, hashlib.sha256(body).hexdigest())


def fingerprint(facts: Mapping[str, Any], files: Mapping[str, list[Path]]) -> str:
    """sha256 over what decides a run: JSON-able facts and the content of its data files, not their places."""
    content = {name: [file_sha256(p) for p in paths] for name, paths in files.items()}
    return hashlib.sha256(json.dumps([dict(facts), content], sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _torn(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"checkpoint {path.name} is not whole: {why}", code="invalid_checkpoint", param="resume_from"
    )
