"""Keeps the steps of a run once it ends: TensorBoard's event file, and the table that OpenAI's jobs have.

Both are made anew from the job's metric events, which are the truth: whatever was killed in between, a step is in them
once and in its place.
"""

from __future__ import annotations

import json
import logging
import os
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.training.repository import tracking as repository
from services.training.tracking import event_files
from services.training.tracking.pace import Pace
from services.training.tracking.result_file import ResultTable, extra_columns
from services.training.tracking.trackers import END_S, Trackers
from shared import job_metrics
from shared.db import Connection
from shared.errors import HeliuError, Unavailable
from shared.job_context import JobContext
from shared.jobs import new_id
from shared.stop import Stop, Stopped
from shared.worker import Platform

log = logging.getLogger(__name__)

DRAIN_S = 2.0
# Up to this factor between their sizes, models take as long to load and to store.
ALIKE = 4.0


@dataclass(frozen=True)
class Kept:
    """What is in the store already, and becomes the job's with its end."""

    result_file: str
    artifact: str
    bytes: int
    tensorboard: str | None
    measured: dict[str, Any]

    @property
    def told(self) -> dict[str, Any]:
        """What the job's result says of it."""
        return {
            "result_files": [self.result_file],
            "tensorboard": self.tensorboard,
            "measured": self.measured,
        }


class Tracking:
    """The steps of one attempt's job; `folder` is for what is made on the way."""

    def __init__(self, platform: Platform, ctx: JobContext, folder: Path) -> None:
        self._platform, self._ctx, self._folder = platform, ctx, folder
        # What the run told of its own choices before its first step, and of its memory at that step.
        self._facts: dict[str, Any] = {}
        self._memory: dict[str, Any] = {}
        self._trackers: Trackers | None = None
        self.pace = Pace()
        self._began, self._began_at = time.monotonic(), time.time()

    def event(self, data: Mapping[str, Any] | None) -> None:
        """Hear an event of the run."""
        if data and "total_steps" in data:
            self._facts = {name: value for name, value in data.items() if name != "held_out"}
        if data and "memory" in data:
            self._memory = dict(data["memory"])
            self._expect()

    def span(self, name: str, start_ns: int, end_ns: int) -> None:
        """Hear how long a part of the run took."""
        self.pace.interrupt(name, (end_ns - start_ns) / 1e9)
        if name == "load" and self.pace.behind is None:
            # What comes behind the steps begins like this: a process that loads its libraries and the model.
            self.pace.behind = max(0.0, end_ns / 1e9 - self._began_at)

    def _expect(self) -> None:
        """What comes behind the steps lasts as of earlier runs that trained a model of this size by the same kind."""
        job, parameters = self._ctx.job, self._memory.get("parameters")
        if not parameters:
            return
        sizes = (parameters / ALIKE, parameters * ALIKE)
        try:
            with self._ctx.db.transaction(job.tenant_id) as connection:
                found = repository.seconds_behind(connection, job.tenant_id, job.kind, job.queue, sizes)
        except Unavailable:
            # A better estimate is not worth waiting for.
            return
        if found is not None:
            self.pace.behind = found

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Tell the operator's trackers of a step, and write down what they said; none of them can fail the run."""
        names = self._platform.settings.wanted_trackers
        if not names:
            return
        if self._trackers is None:
            job = self._ctx.job
            title = str(job.payload.get("name") or job.payload.get("suffix") or job.id)
            run = {"id": job.id, "name": title, "settings": self._settings()}
            self._trackers = Trackers(names, run, job.progress.get("trackers") or {})
        self._trackers.step(step, values)
        self._hear()

    def _end_trackers(self, how: str, patience_s: float = END_S) -> None:
        if self._trackers is not None:
            self._trackers.end(how, patience_s)
            self._hear()

    def _hear(self) -> None:
        assert self._trackers is not None
        for frame in self._trackers.heard():
            name = frame["tracker"]
            if frame["type"] == "run":
                self._ctx.progress(
                    trackers={**(self._ctx.job.progress.get("trackers") or {}), name: frame["id"]}
                )
            else:
                told = f"the tracker {name}: {frame['message']}; the run goes on without it"
                self._ctx.event("message", told, level="warn")

    def _measured(self, trained: Mapping[str, Any]) -> dict[str, Any]:
        """How fast and how large the run was: what later runs of its like are estimated by.

        `other_seconds` are those that were no steps: start, reading, tokens, and the `seconds_behind` the last step,
        which are figures, save, the check against the engine, and what is kept here.
        """
        steps, whole = trained["data"].get("steps"), self.pace.mean_step_seconds
        return {
            "device": self._memory.get("device"),
            "device_name": self._memory.get("device_name"),
            "parameters": self._memory.get("parameters"),
            "trained_parameters": self._memory.get("trained"),
            "steps": steps,
            "tokens_per_step": trained["trained_tokens"] / steps if steps else None,
            "seconds_per_step": whole,
            "other_seconds": max(0.0, time.monotonic() - self._began - self.pace.steps * whole)
            if whole
            else None,
            "seconds_behind": self.pace.since_last(time.time()),
            "peak_memory_bytes": trained.get("peak_memory_bytes"),
            **({"peak_memory_by_process": each} if (each := trained.get("peak_memory_by_process")) else {}),
        }

    def keep(self, trained: Mapping[str, Any]) -> Kept:
        """Store table and event file of a run with this result. An event file that cannot be made is told of, and
        fails nothing."""
        store = self._platform.artifacts
        self._end_trackers("succeeded")
        source, names = self._read()
        table = self._folder / "step_metrics.csv"
        with table.open("w", encoding="utf-8", newline="") as target, source.open(encoding="utf-8") as lines:
            next(lines)
            rows = ResultTable(target, extra_columns(names))
            for line in lines:
                told = json.loads(line)
                rows.add(told["step"], told["values"])
        stored, size, events = store.put_file(table), table.stat().st_size, self._events(source)
        return Kept(new_id("file-"), stored, size, events, self._measured(trained))

    def write(self, connection: Connection, kept: Kept) -> None:
        """Make the table a file of the tenant's, in the transaction that ends the job."""
        repository.add_result_file(
            connection,
            kept.result_file,
            self._ctx.job.tenant_id,
            filename=f"{self._ctx.job.id}-step-metrics.csv",
            bytes_=kept.bytes,
            artifact=kept.artifact,
            job_id=self._ctx.job.id,
        )

    def leave(self, why: Exception) -> None:
        """Keep the event file of a run that ends without a model, or for now; best effort, since it ends anyway."""
        reason = why.reason if isinstance(why, Stopped) else None
        if reason in (Stop.LOST, Stop.DRAIN):
            # A lost lease leaves nothing to write, and a drain no time for it.
            if self._trackers is not None:
                self._trackers.end("interrupted", DRAIN_S)
            return
        ends = {Stop.CANCEL: "cancelled", Stop.TIME_LIMIT: "failed", Stop.STALLED: "failed"}
        how = ends.get(reason, "interrupted") if reason is not None else "failed"
        try:
            self._end_trackers(how)
            source, names = self._read()
            if names and (artifact := self._events(source)):
                self._ctx.progress(tensorboard=artifact)
        except (HeliuError, OSError) as exc:
            log.warning("curves_not_kept", extra={"job": self._ctx.job.id, "error": str(exc)})

    def _read(self) -> tuple[Path, set[str]]:
        """(a JSON line a step behind one that tells of the run, names of all metrics)."""
        job = self._ctx.job
        source, names = self._folder / "steps.jsonl", set[str]()
        self._folder.mkdir(parents=True, exist_ok=True)
        about = {"run": job.id, "at": job.created_at.timestamp(), "settings": self._settings()}
        with (
            source.open("w", encoding="utf-8") as target,
            self._ctx.db.transaction(job.tenant_id) as connection,
        ):
            target.write(json.dumps(about, ensure_ascii=False) + "\n")
            for one in job_metrics.steps(connection, job.id):
                names |= one.values.keys()
                line = {"step": one.step, "at": one.at.timestamp(), "values": one.values}
                target.write(json.dumps(line) + "\n")
        return source, names

    def _settings(self) -> dict[str, Any]:
        payload = self._ctx.job.payload
        asked = {n: v for n, v in payload.get("hyperparameters", {}).items() if v not in (None, "auto")}
        names = ("name", "suffix", "seed", "choice", "base", "model")
        own = {name: payload[name] for name in names if payload.get(name) is not None}
        for reference in ("base", "model"):
            if isinstance(own.get(reference), dict):
                own[reference] = own[reference].get("model")
        return {"kind": self._ctx.job.kind, **own, **self._facts, **asked}

    def _events(self, source: Path) -> str | None:
        """The event file in a zip, in the store; None where it could not be made."""
        run, target = self._ctx.job.id, self._folder / "tensorboard"
        target.mkdir(exist_ok=True)
        try:
            event_files.write(source, target, os.environ)
        except HeliuError as exc:
            log.warning("event_file_not_written", extra={"job": run, "error": exc.message})
            self._ctx.event("message", "the run's event file for TensorBoard could not be made", level="warn")
            return None
        archive = self._folder / "tensorboard.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for path in sorted(target.iterdir()):
                zipped.write(path, f"{run}/{path.name}")
        return self._platform.artifacts.put_file(archive)
