"""A base from scratch."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from services.gateway import repository_models, resolve
from services.gateway.methods.base import TrainingBody
from shared.contracts.training import PRETRAIN_NAME, Pretrain, PretrainParameters
from shared.db import Connection


class PretrainBody(TrainingBody):
    """Tokenizer included; `training_file` is a dataset version, whose validation split is watched."""

    kind = Pretrain

    type: Literal["pretrain"] = Field(description="A small causal language model from scratch.")
    name: str = Field(pattern=PRETRAIN_NAME, description="What the finished model is served as.")
    validation_file: None = Field(default=None, description="Not served: a version has its validation split.")
    hyperparameters: PretrainParameters = Field(
        PretrainParameters(), description="Shape, length and rate of the training."
    )

    def contract(self, connection: Connection, tenant: UUID) -> Pretrain:
        repository_models.check_free(connection, tenant, self.name)
        return Pretrain(
            name=self.name,
            data=resolve.version_ref(connection, tenant, self.training_file, param="training_file"),
            seed=self.seed,
            hyperparameters=self.hyperparameters,
        )
