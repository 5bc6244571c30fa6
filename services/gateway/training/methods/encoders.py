"""Sentence encoders from scratch."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from services.gateway.models import repository as models_repository
from services.gateway.training.methods.base import TrainingBody
from shared.contracts.encoders import EncoderParameters, TrainEncoder
from shared.contracts.models import NAME
from shared.db import Connection


class EncoderBody(TrainingBody):
    """By contrast: texts of one label are drawn together, others apart. The finished model is served by
    /v1/embeddings and by vector stores; how often held-out texts find their label stands in the job's result."""

    kind = TrainEncoder

    type: Literal["encoder"] = Field(
        description="A sentence encoder; rows have `text` and `label`, and those of one label mean the same."
    )
    name: str = Field(pattern=NAME, description="What the finished model is served as.")
    hyperparameters: EncoderParameters = Field(
        EncoderParameters(), description="Shape, length and rate of the training."
    )

    def contract(self, connection: Connection, tenant: UUID) -> TrainEncoder:
        models_repository.check_free(connection, tenant, self.name)
        return TrainEncoder(
            name=self.name,
            training=self.training(connection, tenant),
            validation=self.validation(connection, tenant),
            seed=self.seed,
            hyperparameters=self.hyperparameters,
        )
