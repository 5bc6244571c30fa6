"""What a trained model records of how it was made: data, base, code, libraries, seed, settings, figures. Pure but for
reading the program's own files, once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("services", "shared")


def lineage(
    payload: Mapping[str, Any],
    *,
    kind: str,
    job_id: str,
    trace_id: str | None,
    resolved: Mapping[str, Any],
    libraries: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> dict[str, Any]:
    """`payload` is the job's contract as JSON; `resolved` are the settings that the run chose where it said "auto".

    The recipe of a dataset version is not copied: whoever reads this looks it up by the version, which never changes.
    """
    training = payload.get("training") or payload.get("data") or {}
    validation = payload.get("validation") or {}
    base = payload.get("base") or {}
    by_kind = {training.get("kind"): training.get("id")} if isinstance(training, Mapping) else {}
    return {
        "job_id": job_id,
        "job_kind": kind,
        "trace_id": trace_id,
        "dataset_version": by_kind.get("version"),
        "file": by_kind.get("file"),
        "validation": validation.get("id") if isinstance(validation, Mapping) else None,
        "base": base.get("model") if isinstance(base, Mapping) else None,
        "code": code_version(),
        "libraries": dict(libraries),
        "seed": payload.get("seed"),
        "hyperparameters": {**(payload.get("hyperparameters") or {}), **resolved},
        "metrics": {name: value for name, value in metrics.items() if _is_figure(value)},
    }


def settings_in(told: Mapping[str, Any] | None, payload: Mapping[str, Any]) -> dict[str, Any]:
    """What an event of the run tells of the settings that were asked for, and of the steps that they come to."""
    names = {*(payload.get("hyperparameters") or {}), "batch_size", "learning_rate", "total_steps"}
    return {name: value for name, value in (told or {}).items() if name in names}


@cache
def code_version() -> dict[str, str]:
    """`version` of the package, `source` a SHA-256 over the installed source, and `commit` where git has one."""
    found = {"version": _package_version(), "source": source_hash(ROOT)}
    commit = git_commit(ROOT)
    return {**found, "commit": commit} if commit else found


def source_hash(root: Path) -> str:
    """Over the names and bytes of all modules and SQL files, in order: the same code has the same hash anywhere."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        paths = [p for suffix in ("*.py", "*.sql") for p in (root / package).rglob(suffix)]
        for path in sorted(paths, key=lambda p: p.relative_to(root).as_posix()):
            content = path.read_bytes()
            name = path.relative_to(root).as_posix()
            digest.update(f"{name}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()


def git_commit(root: Path) -> str | None:
    """The commit that a work tree stands at; what was changed since shows in the hash of the source alone."""
    try:
        head = (root / ".git" / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head or None
        name = head.removeprefix("ref: ")
        loose = root / ".git" / name
        if loose.is_file():
            return loose.read_text(encoding="utf-8").strip()
        packed = (root / ".git" / "packed-refs").read_text(encoding="utf-8").splitlines()
    except OSError:
        # Installed from a wheel, or a work tree whose git folder is elsewhere.
        return None
    return next((line.split(" ")[0] for line in packed if line.endswith(f" {name}")), None)


def _package_version() -> str:
    try:
        return version("heliu")
    except PackageNotFoundError:
        return "unknown"


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float | str | bool) or value is None or isinstance(value, dict)
