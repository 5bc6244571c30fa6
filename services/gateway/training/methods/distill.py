"""Distillation of a served model into a smaller one."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from services.gateway.models import resolve
from services.gateway.training.methods.base import PinningBody, TrainingBody
from shared.contracts.answers import CHAT
from shared.contracts.distillation import MOST_HELD_OUT, MOST_PROMPTS, Distill, Generation
from shared.contracts.inference import ModelRef
from shared.contracts.serving import check_serves
from shared.contracts.task import PREFIX, TaskRoute
from shared.contracts.training import Auto, FineTuneParameters
from shared.db import Connection
from shared.errors import InvalidInput, NotFound
from shared.task.bind import task_name


class DistillBody(TrainingBody, PinningBody):
    """The teacher answers the prompts of the training rows (their own answers are not used) in a batch on the inference
    workers; `model` is fine-tuned on what it said. Teacher, student and untrained `model` are then asked the held-out
    prompts, and their figures stand side by side in the job's result."""

    kind = Distill
    asks_models = True

    type: Literal["distill"] = Field(description="A smaller model learns what a larger one answers.")
    teacher: str = Field(
        min_length=1,
        max_length=256,
        description="Who answers: a base, an adapter, a model of an upstream, or `task:NAME` with its prompt.",
    )
    model: str = Field(min_length=1, max_length=256, description="The student's base, one of yours.")
    suffix: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Part of the student's name, `ft:MODEL:SUFFIX:ID`; `distilled` where nothing is given.",
    )
    generation: Generation = Field(
        Generation(), description="How the teacher answers; a task's version says that by itself."
    )
    max_prompts: Annotated[int, Field(ge=1, le=MOST_PROMPTS)] | Auto = Field(
        "auto", description=f"Prompts at most, drawn by the seed; `auto` is all, to {MOST_PROMPTS:,}."
    )
    held_out_rows: Annotated[int, Field(ge=1, le=MOST_HELD_OUT)] = Field(
        100, description="Held-out prompts at most; a tenth of a file's where no validation file is given."
    )
    hyperparameters: FineTuneParameters = Field(
        FineTuneParameters(), description="Of the student's fine-tuning, as of `sft`."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.teacher == self.model:
            raise InvalidInput(
                f"teacher and model are both {self.model!r}; a model learns nothing from its own answers",
                param="model",
            )
        if self.teacher.startswith(PREFIX) and self.generation != Generation():
            raise InvalidInput(
                "a task's version sets how it answers; leave generation out, or add a version of the task",
                param="generation",
            )
        return self

    def contract(self, connection: Connection, tenant: UUID) -> Distill:
        teacher, models, tasks = self._teacher(connection, tenant)
        row = resolve.model_row(connection, tenant, self.model)
        return Distill(
            teacher=teacher,
            models=models,
            tasks=tasks,
            registered=resolve.batch_registered(connection, tenant) if tasks else {},
            base=resolve.base_ref(row),
            untrained=resolve.model_ref(row),
            training=self.training(connection, tenant),
            validation=self.validation(connection, tenant),
            generation=self.generation,
            max_prompts=MOST_PROMPTS if self.max_prompts == "auto" else self.max_prompts,
            held_out_rows=self.held_out_rows,
            suffix=self.suffix,
            seed=self.seed,
            hyperparameters=self.hyperparameters,
            decoding=self.decoding,
        )

    def _teacher(
        self, connection: Connection, tenant: UUID
    ) -> tuple[str, dict[str, ModelRef], dict[str, TaskRoute]]:
        """(name, models, tasks) that a batch needs to know of the teacher; a task may ask any of the tenant's models,
        and a registered name is its version in production."""
        try:
            named = task_name(self.teacher)
        except InvalidInput as exc:
            raise InvalidInput(exc.message, code=exc.code, param="teacher") from exc
        if named is None:
            row = resolve.model_row(connection, tenant, self.teacher, param="teacher")
            ref = resolve.model_ref(row)
            check_serves(row["id"], row["kind"], CHAT, "teacher", upstream=ref.upstream)
            return row["id"], {row["id"]: ref}, {}
        tasks = resolve.batch_tasks(connection, tenant)
        if named[0] not in tasks:
            raise NotFound(f"no task {named[0]!r}; GET /v1/tasks lists those there are", param="teacher")
        return self.teacher, resolve.batch_models(connection, tenant), {named[0]: tasks[named[0]]}
