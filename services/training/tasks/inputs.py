"""What a run starts from, as local files: data, base, adapter. They stay until the attempt's own folder goes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from shared.contracts.training import BaseRef, DataRef
from shared.errors import InvalidInput
from shared.job_context import JobContext
from shared.worker import Platform


class Inputs:
    """The folders of one attempt."""

    def __init__(self, platform: Platform, ctx: JobContext) -> None:
        self._platform = platform
        self._ctx = ctx
        # A folder for each attempt: a zombie of an earlier one can disturb nothing.
        self.scratch = platform.settings.home / "work" / f"{ctx.job.id}-{ctx.job.epoch}"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._cache = platform.settings.home / "cache"
        self._kept = self.scratch / "kept"
        # What of the run's start its model is to know.
        self.begun: dict[str, str] = {}

    def folder(self, tree: str) -> str:
        """The local folder of an artifact tree, there until the attempt's own folder goes."""
        store = self._platform.artifacts
        return str(store.keep(store.materialize(tree, self._cache), self._kept).absolute())

    def start(self, base: BaseRef) -> dict[str, str | None]:
        """The folders of a spec that say what a run starts from."""
        adapter = base.adapter_artifact
        # An adapter goes on as itself, on its own base: nothing could serve a second one on top beside others. What it
        # began as stands here, for lineage and erasure.
        self.begun = {"started_from": base.model} if adapter is not None else {}
        return {
            "base_dir": self.folder(base.base_artifact),
            "adapter_dir": self.folder(adapter) if adapter is not None else None,
        }

    def data(self, training: DataRef, validation: DataRef | None) -> dict[str, list[str]]:
        """Local paths of train and validation; raises InvalidInput for a version that fails its gate."""
        self._ctx.progress(phase="validating")
        return self.paths(training, validation)

    def paths(self, training: DataRef, validation: DataRef | None) -> dict[str, list[str]]:
        """The same for a job whose phase is its own."""
        train = self._paths(training)
        if validation is not None:
            return {"train": train, "validation": self._paths(validation)}
        return {"train": train, "validation": train if training.kind == "version" else []}

    def _paths(self, ref: DataRef) -> list[str]:
        if ref.kind == "file":
            # The child tells formats apart by name; objects in the store have none.
            path = self.scratch / f"{ref.id}.jsonl"
            if not path.exists():
                store = self._platform.artifacts
                path.symlink_to(store.keep(store.path(ref.artifact), self._kept).absolute())
            return [str(path.absolute())]
        folder = Path(self.folder(ref.artifact))
        gate = json.loads((folder / "manifest.json").read_bytes())["gate"]
        if not gate["passed"]:
            raise InvalidInput(
                f"dataset version {ref.id} fails its gate: {'; '.join(gate['reasons'])}",
                code="dataset_gate_failed",
                param="training_file",
            )
        return [str(path) for path in sorted(folder.glob("data/*.parquet"))]

    def clean(self) -> None:
        """Drop the attempt's folders; what counts is in the artifact store."""
        shutil.rmtree(self.scratch, ignore_errors=True)
