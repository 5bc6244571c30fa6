"""Several tasks on one trunk: what each asks for, how often each is drawn, and the job that trains them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import JobContract, Message
from shared.contracts.head_parameters import LossSettings, TrunkParameters
from shared.contracts.heads import HeadChoice, HeadKind, HeadParameters, check_choice
from shared.contracts.models import NAME
from shared.contracts.parameters import Auto, Batch, Epochs
from shared.contracts.training import BaseRef, DataRef
from shared.errors import InvalidInput

TASK_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$"
LONGEST_NAME = 64
MOST_TASKS = 16
Tuned = Literal["full", "lora"]


class MultiTaskParameters(TrunkParameters):
    """Hyperparameters of the whole run; "auto" is chosen once data and base are seen, and told."""

    temperature: Annotated[float, Field(ge=1, le=1000)] | Auto = Field(
        "auto",
        description="How far small tasks are drawn more often than their rows: a task of n rows has the share "
        "n^(1/temperature). 1 is in proportion, a high one evenly; `auto` is 2.",
    )
    n_epochs: Epochs | Auto = Field(
        "auto", description="As many rows as all tasks have, this often; `auto` by how many there are."
    )
    batch_size: Batch | Auto = Field(
        "auto", description="Rows of a step, all of one task; `auto` is 32, fewer where a task has under 256."
    )


class TaskChoice(Message):
    """One task: its head, its loss, and what it counts."""

    name: str = Field(pattern=TASK_NAME, description="The task's model is served as NAME.TASK.")
    head: HeadKind = Field(description="What is answered: one label, several, a number, or an order.")
    loss: str = Field(
        "auto", min_length=1, max_length=64, description="By name; `auto` is the head's usual one."
    )
    weight: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0, description="What the task's loss is multiplied by."
    )
    settings: LossSettings = Field(LossSettings(), description="What the loss asks for.")

    def choice(self, method: Tuned) -> HeadChoice:
        return HeadChoice(head=self.head, method=method, loss=self.loss)


class TaskPart(TaskChoice):
    """A task with its rows."""

    training: DataRef
    validation: DataRef | None = None


class TrainMultiTask(JobContract):
    """A trunk with a head for each task. Task T of the model N is served as `N.T`; all share one trunk artifact."""

    kind: ClassVar[str] = "training.train_multi_task"
    queue: ClassVar[str] = "training.{pool}"
    id_prefix: ClassVar[str] = "mtjob-"
    stall_limit_s: ClassVar[float | None] = 900.0

    name: str = Field(pattern=NAME)
    base: BaseRef
    method: Tuned = "full"
    parts: tuple[TaskPart, ...] = Field(min_length=2, max_length=MOST_TASKS)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    hyperparameters: MultiTaskParameters = MultiTaskParameters()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_tasks(self.name, self.method, self.parts, self.hyperparameters)
        return self


def model_name(name: str, task: str) -> str:
    """What a task's model is served as."""
    return f"{name}.{task}"


def check_tasks(name: str, method: Tuned, tasks: Sequence[TaskChoice], given: MultiTaskParameters) -> None:
    """Raise InvalidInput for a name that stands twice or is too long, and for what a head or the method has not."""
    seen: set[str] = set()
    for place, task in enumerate(tasks):
        at = f"tasks[{place}]"
        if task.name in seen:
            raise InvalidInput(
                f"two tasks are called {task.name!r}; each needs its own name", param=f"{at}.name"
            )
        seen.add(task.name)
        served = model_name(name, task.name)
        if len(served) > LONGEST_NAME:
            raise InvalidInput(
                f"the task's model would be called {served!r}, {len(served)} characters; a name has "
                f"{LONGEST_NAME} at most",
                param=f"{at}.name",
            )
        try:
            check_choice(
                task.choice(method), True, HeadParameters(**task.settings.model_dump(exclude_defaults=True))
            )
        except InvalidInput as exc:
            param = str(exc.param).replace("hyperparameters", "settings")
            raise InvalidInput(exc.message, code=exc.code, param=f"{at}.{param}") from exc
    for field in ("lora_r", "lora_alpha"):
        if method != "lora" and getattr(given, field) != "auto":
            raise InvalidInput(
                f"{field} goes with the method 'lora', and the method is {method!r}",
                param=f"hyperparameters.{field}",
            )
