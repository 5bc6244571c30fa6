"""Several heads on one trunk."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from services.gateway.bodies import Body
from services.gateway.models import repository as models_repository
from services.gateway.models import resolve
from services.gateway.training.methods.base import MethodBody
from services.gateway.training.methods.versions import check_version
from shared.contracts.models import NAME
from shared.contracts.multi_task import (
    MOST_TASKS,
    MultiTaskParameters,
    TaskChoice,
    TaskPart,
    TrainMultiTask,
    Tuned,
    check_tasks,
    model_name,
)
from shared.db import Connection


class TaskOf(TaskChoice, Body):
    """One task of the run, with its own rows."""

    training_file: str = Field(
        min_length=1,
        max_length=256,
        description="The task's rows: a file (`file-`) or a dataset version (`dsv-`).",
    )
    validation_file: str | None = Field(
        default=None, min_length=1, max_length=256, description="Its held-out rows; a version has its own."
    )


class MultiTaskBody(MethodBody):
    """One trunk learns all tasks in turns, drawn by their sizes and the temperature. Each task's model is served as
    `NAME.TASK`, all with the same trunk; the figures of each, beside its baseline, stand in the job's result."""

    kind = TrainMultiTask

    type: Literal["multi_task"] = Field(description="Heads of several tasks on one trunk.")
    name: str = Field(pattern=NAME, description="What the models' names begin with.")
    model: str = Field(
        min_length=1, max_length=256, description="The trunk: any model of yours with weights."
    )
    method: Tuned = Field(
        "full", description="Every weight of the trunk, or `lora`, which is merged into it."
    )
    tasks: Annotated[list[TaskOf], Field(min_length=2, max_length=MOST_TASKS)] = Field(
        description="Two or more, each with its head, its loss, its weight and its rows."
    )
    hyperparameters: MultiTaskParameters = Field(
        MultiTaskParameters(), description="How tasks are mixed, length and rate of the training."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_tasks(self.name, self.method, self.tasks, self.hyperparameters)
        return self

    def contract(self, connection: Connection, tenant: UUID) -> TrainMultiTask:
        for task in self.tasks:
            models_repository.check_free(connection, tenant, model_name(self.name, task.name))
        return TrainMultiTask(
            name=self.name,
            base=resolve.trunk_ref(resolve.model_row(connection, tenant, self.model)),
            method=self.method,
            parts=tuple(self._part(connection, tenant, place) for place in range(len(self.tasks))),
            seed=self.seed,
            hyperparameters=self.hyperparameters,
        )

    def _part(self, connection: Connection, tenant: UUID, place: int) -> TaskPart:
        task, at = self.tasks[place], f"tasks[{place}]"
        validation = None
        if task.validation_file is not None:
            validation = resolve.data_ref(
                connection, tenant, task.validation_file, param=f"{at}.validation_file"
            )
        training = resolve.data_ref(connection, tenant, task.training_file, param=f"{at}.training_file")
        check_version(connection, tenant, task.head, training, validation, f"{at}.")
        return TaskPart(
            **{name: getattr(task, name) for name in TaskChoice.model_fields},
            training=training,
            validation=validation,
        )
