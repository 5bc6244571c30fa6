"""A served model as the teacher of a smaller one: the job that asks, trains and compares. Pure."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.base import JobContract, Message
from shared.contracts.inference import ModelRef
from shared.contracts.model_registry import RegisteredRoute
from shared.contracts.pinned import PinnedDecoding
from shared.contracts.task import TaskRoute
from shared.contracts.training import LIGHT_QUEUE, Auto, BaseRef, DataRef, FineTuneParameters

# Prompts and held-out questions go out in one batch, whose rows are counted.
MOST_PROMPTS, MOST_HELD_OUT = 40_000, 2_000
Phase = Literal["asking", "training", "measuring"]


class Generation(Message):
    """How the teacher answers."""

    max_tokens: Annotated[int, Field(ge=1, le=8192)] | Auto = Field(
        "auto", description="Tokens of an answer; one that needs more is dropped, not cut. `auto` is 256."
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | Auto = Field(
        "auto", description="`auto` is 0: the likeliest answer."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | Auto = Field("auto", description="`auto` is 1.")


class Distill(JobContract):
    """Have `teacher` answer the prompts of the training rows, fine-tune `base` on its answers, and compare the two and
    the student on held-out rows. It trains nothing by itself: batches and the fine-tuning are jobs that it waits for.
    """

    kind: ClassVar[str] = "training.distill"
    queue: ClassVar[str] = LIGHT_QUEUE
    id_prefix: ClassVar[str] = "distill-"
    stall_limit_s: ClassVar[float | None] = 900.0

    # A model's name, or task:NAME.
    teacher: str
    models: dict[str, ModelRef]
    tasks: dict[str, TaskRoute] = Field(default_factory=dict)
    # What a task's model may be called by.
    registered: dict[str, RegisteredRoute] = Field(default_factory=dict)
    base: BaseRef
    # The base as it is served, for the figures before training.
    untrained: ModelRef
    training: DataRef
    validation: DataRef | None = None
    generation: Generation = Generation()
    max_prompts: int = Field(MOST_PROMPTS, ge=1, le=MOST_PROMPTS)
    held_out_rows: int = Field(100, ge=1, le=MOST_HELD_OUT)
    suffix: str | None = Field(default=None, min_length=1, max_length=64)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    hyperparameters: FineTuneParameters = FineTuneParameters()
    decoding: PinnedDecoding = PinnedDecoding()
