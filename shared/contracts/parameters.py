"""What the hyperparameters of all ways of training are made of: their types, and the fields that several have. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

Auto = Literal["auto"]
# As far as the trainers go: what a job would fail of is refused before a worker is taken.
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Positive = Annotated[float, Field(ge=1e-4, le=10_000)]
Rate = Annotated[float, Field(ge=1e-9, le=10)]
Seconds = Annotated[float, Field(ge=1, le=1e8)]
Share = Annotated[float, Field(ge=1e-6, le=0.999)]
Warmup = Annotated[float, Field(ge=0, le=0.999)]
Dropout = Annotated[float, Field(ge=0, le=0.99)]
Temperature = Annotated[float, Field(ge=1e-3, le=1)]
Epochs = Annotated[int, Field(ge=1, le=1000)]
Batch = Annotated[int, Field(ge=1, le=4096)]

N_EPOCHS: Any = Field(
    "auto",
    description="How often every row is seen; auto by the size of the data, where max_steps is auto too.",
)
MAX_STEPS: Any = Field(
    "auto", description="Most steps; the run ends there or with its epochs, whichever is first."
)
BATCH_SIZE: Any = Field(
    "auto", description="Sequences of a step, on average where they are packed; auto by their length."
)
WARMUP_RATIO: Any = Field(
    "auto", description="Share of the steps in which the rate rises to its peak; auto is 0.05."
)
MAX_SECONDS: Any = Field(
    "auto", description="A budget: once the first steps are measured, the run is cut to what it allows."
)
CHECKPOINT_EVERY: Any = Field(
    "auto",
    description="Steps between checkpoints, from which a run is resumed; auto is a quarter of the run.",
)
VALIDATION_SHARE: Any = Field(
    "auto", description="Held out of a file that comes without a validation file; auto is 0.2."
)
LOG_EVERY: Any = Field(
    "auto", description="Steps between two points of the loss curve; auto is a fiftieth of the run."
)
