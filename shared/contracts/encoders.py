"""Sentence encoders trained from scratch on texts that mean the same: the job, and what may be set. Pure."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from shared.contracts.base import JobContract, Message
from shared.contracts.models import NAME
from shared.contracts.training import Auto, Count, DataRef, Positive


class EncoderParameters(Message):
    """Hyperparameters of an encoder; "auto" is chosen once the data is seen, and told."""

    hidden_size: Annotated[int, Field(ge=16, le=1024)] | Auto = "auto"
    layers: Annotated[int, Field(ge=1, le=24)] | Auto = "auto"
    heads: Annotated[int, Field(ge=1, le=16)] | Auto = "auto"
    max_length: Annotated[int, Field(ge=16, le=512)] | Auto = "auto"
    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = "auto"
    max_steps: Count | Auto = "auto"
    batch_size: Annotated[int, Field(ge=2, le=4096)] | Auto = "auto"
    learning_rate: Positive | Auto = "auto"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | Auto = "auto"
    temperature: Annotated[float, Field(gt=0, le=1)] | Auto = "auto"
    dropout: Annotated[float, Field(ge=0, lt=1)] | Auto = "auto"
    max_seconds: Annotated[float, Field(ge=1)] | Auto = "auto"
    checkpoint_every: Count | Auto = "auto"
    log_every: Count | Auto = "auto"
    # Of a file that comes without a validation file.
    validation_share: Annotated[float, Field(gt=0, lt=1)] | Auto = "auto"


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
