"""What every way of training is asked with: data, seed, metadata, and how a request becomes a job's contract."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar
from uuid import UUID

from pydantic import Field

from services.gateway.bodies import Body
from services.gateway.jobs.metadata import Metadata
from services.gateway.models import resolve
from shared.contracts.base import JobContract
from shared.contracts.pinned import PinnedDecoding
from shared.contracts.training import BaseRef, DataRef
from shared.contracts.tuning import LoraParameters, check_adapter
from shared.db import Connection


class Urgency(Body):
    """How much a training job is wanted beside others."""

    priority: int = Field(
        0, ge=-100, le=100, description="Of your own jobs the one of the highest priority starts first."
    )
    preemptible: bool | None = Field(
        default=None,
        description="Whether the job may be asked to stop at a checkpoint, and goes on later, when one of yours of a "
        "higher priority finds no worker or live requests need the machine; by default where `priority` is below 0.",
    )

    @property
    def may_be_preempted(self) -> bool:
        return self.priority < 0 if self.preemptible is None else self.preemptible


class MethodBody(Urgency):
    """Each way of training adds a literal `type`, its own fields and `hyperparameters`."""

    kind: ClassVar[type[JobContract]]
    # Whether the job has models answer, which counts against the key's tokens.
    asks_models: ClassVar[bool] = False

    seed: int = Field(
        0, ge=0, le=2**31 - 1, description="The same seed, data and settings give the same model."
    )
    metadata: Metadata | None = Field(
        default=None, description="Up to 16 of the caller's own labels; lists can be narrowed by them."
    )

    @abstractmethod
    def contract(self, connection: Connection, tenant: UUID) -> JobContract:
        """The job, with every name resolved to content as this tenant. Raises what `resolve` raises."""


class PinningBody(Body):
    """What makes a model that answers."""

    decoding: PinnedDecoding = Field(
        PinnedDecoding(),
        description="Settings that the new model has where a request does not say; what is left out is as of the model "
        "that it is made of.",
    )


class TrainingBody(MethodBody):
    """A way of training that learns from one file or version."""

    training_file: str = Field(
        min_length=1,
        max_length=256,
        description="A file (`file-`) of purpose `fine-tune`, a dataset version (`dsv-`) that passed its gate, or "
        "`dataset@tag`.",
    )
    validation_file: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Held-out rows, named as `training_file` is; a dataset version has its own validation split.",
    )

    def training(self, connection: Connection, tenant: UUID) -> DataRef:
        return resolve.data_ref(connection, tenant, self.training_file, param="training_file")

    def validation(self, connection: Connection, tenant: UUID) -> DataRef | None:
        if self.validation_file is None:
            return None
        return resolve.data_ref(connection, tenant, self.validation_file, param="validation_file")


class TuningBody(TrainingBody, PinningBody):
    """What tunes a causal model, by an adapter or in all its weights; the new one's name is made of the old one's."""

    model: str = Field(
        min_length=1,
        max_length=256,
        description="What is tuned: a base, or an adapter, whose own matrices are then trained further.",
    )
    suffix: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Part of the new model's name, `ft:MODEL:SUFFIX:ID`.",
    )

    def base(self, connection: Connection, tenant: UUID, adapter: LoraParameters | None) -> BaseRef:
        """The model to start from. Raises InvalidInput where the `adapter` that it is to get does not fit its layers,
        as far as these are known."""
        row = resolve.model_row(connection, tenant, self.model)
        base = resolve.base_ref(row)
        layers = row["info"].get("linear_layers")
        if layers and adapter is not None and base.adapter_artifact is None:
            check_adapter(adapter, layers)
        return base
