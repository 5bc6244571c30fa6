"""Where a build keeps what: the names of files and folders under its folder, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.data_governance.build.plan import Plan, unpacked_path


class Layout:
    """`plan.json`; `stage-<n>/part-<n>/` with what a part left; `stage-<n>/settled/` with what was settled after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plan = folder / "plan.json"

    def has_plan(self) -> bool:
        return self._plan.is_file()

    def write_plan(self, plan: Plan) -> None:
        """In one step: a plan that is there is whole."""
        writing = self.folder / ".plan.json"
        writing.write_text(plan.dump(), encoding="utf-8")
        writing.replace(self._plan)
        for stage in range(len(plan.stages)):
            (self.folder / f"stage-{stage}").mkdir(exist_ok=True)

    def read_plan(self) -> Plan:
        return Plan.load(self._plan.read_text(encoding="utf-8"))

    def unpacked(self, number: int) -> Path:
        return unpacked_path(self.folder, number)

    def part(self, stage: int, part: int) -> Path:
        return self.folder / f"stage-{stage}" / f"part-{part:05d}"

    def settled(self, stage: int) -> Path:
        return self.folder / f"stage-{stage}" / "settled"

    def missing(self, stage: int, parts: int) -> list[int]:
        """The parts of a stage that have not been done."""
        return [part for part in range(parts) if not self.part(stage, part).is_dir()]

    def kept(self, stage: int, part: int) -> int:
        """Rows that a part of a stage handed on."""
        return int(self._counts(stage, part)["rows"])

    def counts(self, stage: int, parts: int) -> list[int]:
        return [self.kept(stage, part) for part in range(parts)]

    def write_counts(self, folder: Path, **counts: int) -> None:
        (folder / "counts.json").write_text(json.dumps(counts))

    def _counts(self, stage: int, part: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.part(stage, part) / "counts.json").read_text())
        return found
