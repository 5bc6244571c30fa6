"""Sentence encoders trained from scratch on texts that mean the same: the job, and what may be set. Pure."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from shared.contracts.base import JobContract, Message
from shared.contracts.early_stopping import EARLY_STOPPING_PATIENCE, KEEP_BEST, KeepBest, Patience
from shared.contracts.models import NAME
from shared.contracts.parameters import (
    LOG_EVERY,
    MAX_SECONDS,
    MAX_STEPS,
    VALIDATION_SHARE,
    Auto,
    Count,
    Dropout,
    Epochs,
    Rate,
    Seconds,
    Share,
    Temperature,
    Warmup,
)
from shared.contracts.training import DataRef


class EncoderParameters(Message):
    """Hyperparameters of an encoder; "auto" is chosen once the data is seen, and told."""

    hidden_size: Annotated[int, Field(ge=16, le=1024)] | Auto = Field(
        "auto", description="Numbers of a vector, a multiple of `heads`; `auto` is 192."
    )
    layers: Annotated[int, Field(ge=1, le=24)] | Auto = Field(
        "auto", description="Transformer layers; `auto` is 1."
    )
    heads: Annotated[int, Field(ge=1, le=16)] | Auto = Field(
        "auto", description="Attention heads of a layer; `auto` is 4."
    )
    max_length: Annotated[int, Field(ge=16, le=512)] | Auto = Field(
        "auto", description="Characters of a text at most, longer ones are cut; `auto` is 128."
    )
    n_epochs: Epochs | Auto = Field(
        "auto", description="How often all texts are seen; `auto` makes 160,000 texts of them in all."
    )
    max_steps: Count | Auto = MAX_STEPS
    batch_size: Annotated[int, Field(ge=2, le=4096)] | Auto = Field(
        "auto", description="Texts of a step, each other's negatives; `auto` is 128."
    )
    learning_rate: Rate | Auto = Field("auto", description="Peak rate; `auto` is 0.001.")
    warmup_ratio: Warmup | Auto = Field(
        "auto", description="Share of the steps in which the rate rises from nothing; `auto` is 0.1."
    )
    temperature: Temperature | Auto = Field(
        "auto",
        description="Of the contrast: the lower, the more the nearest negatives weigh; `auto` is 0.05.",
    )
    dropout: Dropout | Auto = Field("auto", description="Within the layers; `auto` is 0.2.")
    max_seconds: Seconds | Auto = MAX_SECONDS
    checkpoint_every: Count | Auto = Field(
        "auto", description="Steps between checkpoints; `auto` is a quarter of the run, 50 at least."
    )
    log_every: Count | Auto = LOG_EVERY
    validation_share: Share | Auto = VALIDATION_SHARE
    early_stopping_patience: Patience = EARLY_STOPPING_PATIENCE
    keep_best: KeepBest = KEEP_BEST


class TrainEncoder(JobContract):
    """A character-level encoder from rows of `text` and `label`: those of one label mean the same. Served as `name`."""

    kind: ClassVar[str] = "training.train_encoder"
    queue: ClassVar[str] = "training.{pool}"
    id_prefix: ClassVar[str] = "encjob-"
    stall_limit_s: ClassVar[float | None] = 900.0

    name: str = Field(pattern=NAME)
    training: DataRef
    validation: DataRef | None = None
    seed: int = Field(0, ge=0, le=2**31 - 1)
    hyperparameters: EncoderParameters = EncoderParameters()
