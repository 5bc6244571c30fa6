"""The checkpoints of a run: stored, pointed at for whoever resumes it, and served where they can be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.training import repository
from services.training.checkpoint import checkpoint_samples, held
from services.training.engine_check import Served
from services.training.tasks.inputs import Inputs
from shared.contracts.preferences import TunePreferences
from shared.contracts.training import FineTune
from shared.db import Connection, retrying
from shared.errors import HeliuError
from shared.job_context import JobContext
from shared.jobs import new_id
from shared.worker import Platform

# What an engine needs of a checkpoint; the optimizer's state is not for serving.
SERVED = re.compile(
    r"adapter_(config\.json|model\.safetensors)|(generation_)?config\.json|model[^/]*\.(safetensors|index\.json)"
    r"|tokenizer[^/]*|special_tokens_map\.json|added_tokens\.json|chat_template\.jinja|vocab\.json|merges\.txt"
)

# What a checkpoint's model says until the engine has been asked, once the trainer has left the machine to it.
UNCHECKED = {"passed": None, "why": "the engine has not been held against this checkpoint"}

Lineage = Callable[[dict[str, str], dict[str, Any]], dict[str, Any]]


class Checkpoints:
    """Keeps what a run's child tells of. `tuned` is the job whose checkpoints are models too, where they are.

    `lineage` says what a model came from, by the versions of libraries and its metrics.
    """

    def __init__(
        self,
        platform: Platform,
        ctx: JobContext,
        model_name: str,
        tuned: FineTune | TunePreferences | None,
        inputs: Inputs,
        lineage: Lineage,
    ) -> None:
        self._platform = platform
        self._ctx = ctx
        self._model_name = model_name
        self._tuned = tuned
        self._inputs = inputs
        self._lineage = lineage
        # Step and folder of those of this attempt that are served.
        self._served: list[tuple[int, str]] = []

    def keep(self, step: int, path: Path, metrics: dict[str, Any]) -> None:
        """Store the folder, then move the job's pointer to it under the fence: resume reads the pointer only."""
        with held(path) as there:
            if there:
                self._store(step, path, metrics)
            else:
                # Newer ones were written while an older one was being stored; the newest are still to come.
                self._ctx.event("message", f"the checkpoint at step {step} was overtaken by newer ones")

    def _store(self, step: int, path: Path, metrics: dict[str, Any]) -> None:
        ctx = self._ctx
        artifact = self._platform.artifacts.put_tree(path)
        serves = self._tuned is not None and self._tuned.hyperparameters.serves_checkpoints
        served = self._platform.artifacts.put_tree(path, SERVED.fullmatch) if serves else None

        def write() -> None:
            with ctx.transaction() as connection:
                if self._tuned and served:
                    self._add_model(connection, self._tuned, step, served, metrics)
                repository.add_checkpoint(
                    connection,
                    new_id("ftckpt_"),
                    ctx.job.tenant_id,
                    ctx.job.id,
                    step=step,
                    epoch=ctx.job.epoch,
                    artifact=artifact,
                    model_id=self._name(step),
                    metrics=metrics,
                )
                repository.set_checkpoint(connection, ctx.job.id, step, artifact)

        retrying(write, attempts=8, patience=0.2)
        if served:
            self._served.append((step, served))
        ctx.job.progress["checkpoint"] = {"step": step, "artifact": artifact}
        ctx.event("message", f"checkpoint at step {step}", {"step": step})

    def unchecked(self, workdir: Path, base: Path | None) -> list[tuple[int, Served]]:
        """Those that the engine can be held against, newest first; `base` is that of adapters."""
        return [
            (step, Served(Path(self._inputs.folder(tree)), base, samples))
            for step, tree in reversed(self._served)
            if (samples := checkpoint_samples(workdir, step)).is_dir()
        ]

    def note(self, step: int, found: dict[str, Any] | HeliuError) -> None:
        """What the engine made of one: its model says so, and where it failed the job does, too."""
        if isinstance(found, HeliuError):
            passed = False if found.code == "parity_check_failed" else None
            self._ctx.event(
                "message",
                f"the checkpoint at step {step} was held against the engine: {found.message}",
                None,
                "warn",
            )
            found = {"parity": {"passed": passed, "why": found.message}}
        info, name = found, self._name(step)

        def write() -> None:
            with self._ctx.transaction() as connection:
                repository.add_to_info(connection, self._ctx.job.tenant_id, name, self._ctx.job.id, info)

        retrying(write, attempts=8, patience=0.2)

    def _name(self, step: int) -> str:
        return f"{self._model_name}:ckpt-step-{step}"

    def _add_model(
        self,
        connection: Connection,
        job: FineTune | TunePreferences,
        step: int,
        artifact: str,
        metrics: dict[str, Any],
    ) -> None:
        """A checkpoint of a fine-tuning run can be served like its end."""
        lora = job.hyperparameters.makes_adapter
        repository.add_model(
            connection,
            self._ctx.job.tenant_id,
            self._name(step),
            artifact=artifact,
            job_id=self._ctx.job.id,
            dataset_version=job.training.id,
            info={
                "checkpoint": step,
                **metrics,
                "parity": UNCHECKED,
                **self._inputs.begun,
                "lineage": self._lineage({}, metrics),
            },
            base_id=job.base.root if lora else job.base.model,
            base_artifact=job.base.base_artifact if lora else None,
        )
