"""Factories for rows, files and builds; each fills what a test does not care about."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.data_governance.build import InputFile, VersionResult, build_version
from services.data_governance.rows import Message, Row
from shared.contracts.recipe import Recipe

MakeRow = Callable[..., Row]


@pytest.fixture
def row() -> MakeRow:
    """`row("question", "answer", label=..., line=...)`, or `row(text="...")`."""

    def make(
        *turns: str, text: str | None = None, label: str | None = None, line: int = 1, meta: str = "{}"
    ) -> Row:
        roles = ("user", "assistant")
        messages = (
            tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns)) if text is None else None
        )
        return Row(f"row-{line}", line, str(line), messages, text, label, meta)

    return make


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[Sequence[Any]], Path]:
    """Writes each value as one line; bytes are written as they are."""

    def write(values: Sequence[Any], name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        lines = [v if isinstance(v, bytes) else json.dumps(v, ensure_ascii=False).encode() for v in values]
        path.write_bytes(b"\n".join(lines) + b"\n")
        return path

    return write


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., VersionResult]:
    """Builds a version of a file under `tmp_path`, without progress and never stopped."""

    def run(path: Path, recipe: Recipe | None = None, **options: Any) -> VersionResult:
        name = options.pop("source_name", path.name)
        sha256 = options.pop("source_sha256", hashlib.sha256(path.read_bytes()).hexdigest())
        out = options.pop("out_dir", tmp_path / "out")
        work = options.pop("work", None) or Path(tempfile.mkdtemp(dir=tmp_path))
        settings: dict[str, Any] = {
            "on_progress": lambda progress: None,
            "should_stop": lambda: False,
            **options,
        }
        return build_version([InputFile(name, path, sha256)], recipe, work, out, **settings)

    return run
