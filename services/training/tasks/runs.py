"""One attempt at training: its child process, what the child reports on the way, and the models that it leaves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.training import repository
from services.training.engine_check import Served, check_engine
from services.training.lineage import lineage, settings_in
from services.training.supervise import Sink, supervise
from services.training.tasks.checkpoints import Checkpoints
from services.training.tasks.inputs import Inputs
from services.training.tasks.tracking import Tracking
from services.training.tasks.trials import open_trial
from shared.contracts.preferences import TunePreferences
from shared.contracts.training import FineTune
from shared.db import Connection
from shared.errors import HeliuError
from shared.job_context import JobContext, Outcome
from shared.stop import ChildCrashed, Stopped
from shared.worker import Platform

# Progress is written no more often than this, and always for the last step.
PROGRESS_S = 1.0


@dataclass(frozen=True)
class Made:
    """A model that a run has made, as it is registered. `data` are its own `training` and `validation` where the job
    has several."""

    name: str
    folder: Path
    dataset_version: str
    info: dict[str, Any]
    base_id: str | None = None
    base_artifact: str | None = None
    kind: str | None = None
    data: dict[str, Any] | None = None


class TrainingRun:
    """One attempt: what its child reports (events, metrics, checkpoints, spans), and how it ends."""

    def __init__(
        self,
        platform: Platform,
        ctx: JobContext,
        model_name: str,
        tuned: FineTune | TunePreferences | None = None,
    ) -> None:
        self._platform = platform
        self._ctx = ctx
        self._model_name = model_name
        self._trial = open_trial(ctx)
        self.inputs = Inputs(platform, ctx)
        self._scratch = self.inputs.scratch
        self._tracking = Tracking(platform, ctx, self._scratch / "tracking")
        self._told_at = 0.0
        # What the run says of the settings that it was to choose.
        self._chosen: dict[str, Any] = {}
        # A trial of a search registers no model.
        served = tuned if self._trial is None else None
        self._checkpoints = Checkpoints(platform, ctx, model_name, served, self.inputs, self._lineage)

    def train(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Run the child to its result frame. Raises Stopped, ChildCrashed, or the child's own typed error."""
        ctx, settings = self._ctx, self._platform.settings
        checkpoint = ctx.job.progress.get("checkpoint")
        frame = {
            **spec,
            "workdir": str((self._scratch / "run").absolute()),
            "output_dir": str((self._scratch / "output").absolute()),
            "resume_from": self.inputs.folder(checkpoint["artifact"]) if checkpoint else None,
            **({"threads": settings.threads} if settings.threads else {}),
        }
        if checkpoint:
            ctx.event("message", f"resuming from the checkpoint at step {checkpoint['step']}")
        # What an earlier attempt expected of its end is nothing to go by.
        ctx.progress(phase="running", estimated_finish=None)
        sink = Sink(
            event=self._event,
            metrics=self._metrics,
            checkpoint=self._checkpoints.keep,
            span=self._span,
            progress=self._progress,
            touch=ctx.touch,
        )
        try:
            watched = self._trial or ctx
            return self._checked(supervise(watched, frame, sink, grace_s=settings.drain_seconds * 0.8), frame)
        except (Stopped, ChildCrashed, HeliuError) as exc:
            self._tracking.leave(exc)
            if self._trial is not None and isinstance(exc, Stopped):
                self._trial.leave()
            raise

    def _event(self, level: str, message: str, data: dict[str, Any] | None) -> None:
        self._tracking.event(data)
        self._chosen |= settings_in(data, self._ctx.job.payload)
        self._ctx.event("message", message, data, level)

    def _span(self, name: str, start_ns: int, end_ns: int, attributes: dict[str, Any]) -> None:
        self._tracking.span(name, start_ns, end_ns)
        self._platform.tracing.record(
            name, start_ns, end_ns, parent=self._ctx.span.traceparent, attributes=attributes
        )

    def _progress(self, step: int, total: int, at: float) -> None:
        """Where the run is, and when it will end at the speed that it has now."""
        self._tracking.pace.step(step, total, at)
        if step < total and time.monotonic() - self._told_at < PROGRESS_S:
            return
        look = self._tracking.pace.look()
        self._ctx.progress(
            step=step,
            total_steps=total,
            seconds_per_step=round(look.whole_step_seconds, 6) if look else None,
            estimated_finish=round(look.finish) if look else None,
        )
        self._told_at = time.monotonic()

    def _checked(self, trained: dict[str, Any], frame: dict[str, Any]) -> dict[str, Any]:
        """The engine computes what was trained, where the trainer left samples: heads are read back by themselves."""
        samples, folder = Path(frame["workdir"]) / "parity", Path(trained["output_dir"])
        if not samples.exists():
            return trained
        adapter = (folder / "adapter_config.json").exists()
        base = Path(frame["base_dir"]) if adapter else None
        grace, threads = self._platform.settings.drain_seconds * 0.8, frame.get("threads", 2)
        others = self._checkpoints.unchecked(Path(frame["workdir"]), base)
        models = [Served(folder, base, samples), *(one for _, one in others)]
        found, *rest = check_engine(self._ctx, models, threads=threads, grace_s=grace)
        if isinstance(found, HeliuError):
            raise found
        for (step, _), one in zip(others, rest, strict=False):
            self._checkpoints.note(step, one)
        parity = found["parity"]
        self._ctx.event(
            "message",
            f"the engine's logits differ from the trainer's by at most {parity['max_abs_difference']:.2g} on "
            f"{parity['rows']} rows; {parity['tolerance']:.2g} is allowed",
            parity,
        )
        return {**trained, "data": {**trained["data"], **found, **self.inputs.begun}}

    def _metrics(self, step: int, data: dict[str, Any]) -> None:
        job = self._ctx.job.id
        if "train_loss" in data:
            self._platform.metrics.train_loss.labels(job).set(data["train_loss"])
        if "tokens_per_second" in data:
            self._platform.metrics.train_tokens.labels(job).set(data["tokens_per_second"])
        loss = f", training loss={data['train_loss']:.4f}" if "train_loss" in data else ""
        self._ctx.event(
            "metrics", f"Step {step}/{data.get('total_steps', '?')}{loss}", {"step": step, **data}
        )
        self._tracking.metrics(step, data)
        if self._trial is not None:
            self._trial.told(step, data)

    def finish(
        self,
        trained: dict[str, Any],
        *,
        dataset_version: str,
        told: dict[str, Any] | None = None,
        base_id: str | None = None,
        base_artifact: str | None = None,
        kind: str | None = None,
        named: str = "model",
    ) -> Outcome:
        """Store what the child made, and register it as the run's model when the job ends.

        `told` joins the job's result, where the model's name stands as `named`.
        """
        made = Made(
            self._model_name,
            Path(trained["output_dir"]),
            dataset_version,
            trained["data"],
            base_id,
            base_artifact,
            kind,
        )
        return self.finish_all(trained, [made], {named: self._model_name, **(told or {})})

    def finish_all(self, trained: dict[str, Any], made: Sequence[Made], told: dict[str, Any]) -> Outcome:
        """The same for a run that makes several models: all are registered, or none.

        `told` joins the job's result; `artifact` stands there where there is one, `artifacts` by name of several. A
        trial of a search registers none: its search does that with the best one's.
        """
        trial = self._trial
        value = trial.value(trained["data"]) if trial is not None else None
        trees = [self._platform.artifacts.put_tree(one.folder) for one in made]
        kept = self._tracking.keep(trained)
        self.inputs.clean()
        ctx, info = self._ctx, trained["data"]
        libraries = trained.get("libraries", {})
        recorded = [{**one.info, "lineage": self._lineage(libraries, one.info, one.data)} for one in made]
        models: list[dict[str, Any]] = [
            {
                "model_id": one.name,
                "artifact": tree,
                "job_id": ctx.job.id,
                "dataset_version": one.dataset_version,
                "info": about,
                "base_id": one.base_id,
                "base_artifact": one.base_artifact,
                "kind": one.kind,
            }
            for one, tree, about in zip(made, trees, recorded, strict=True)
        ]

        def write(connection: Connection) -> None:
            if trial is not None and value is not None:
                trial.keep(connection, value, models)
                return
            self._tracking.write(connection, kept)
            for model in models:
                repository.add_model(connection, ctx.job.tenant_id, **model)

        stored = (
            {"artifact": trees[0]}
            if len(made) == 1
            else {"artifacts": {one.name: tree for one, tree in zip(made, trees, strict=True)}}
        )
        steps = kept.told
        if trial is not None and value is not None:
            # A hundred trials would leave a hundred files.
            told, steps = trial.told_of(value), {"tensorboard": kept.tensorboard}
        return Outcome(
            result={**told, **stored, "trained_tokens": trained["trained_tokens"], **info, **steps},
            write=write,
        )

    def _lineage(
        self, libraries: dict[str, str], metrics: dict[str, Any], data: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        job = self._ctx.job
        return lineage(
            {**job.payload, **(data or {})},
            kind=job.kind,
            job_id=job.id,
            trace_id=job.trace_id,
            resolved=self._chosen,
            libraries=libraries,
            metrics=metrics,
        )
