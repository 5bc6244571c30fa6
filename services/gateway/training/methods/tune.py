"""Supervised fine-tuning, as `/v1/fine_tuning/jobs` has it too."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from services.gateway.training.methods.base import TuningBody
from shared.contracts.early_stopping import check_watched
from shared.contracts.training import FineTune, FineTuneParameters
from shared.db import Connection


class TuneBody(TuningBody):
    """On the assistant's answers of conversations: a LoRA adapter on `model`, or every weight of it."""

    kind = FineTune

    type: Literal["sft"] = Field(description="Supervised fine-tuning on conversations.")
    hyperparameters: FineTuneParameters = Field(
        FineTuneParameters(), description="LoRA or all weights, length and rate of the training."
    )

    def contract(self, connection: Connection, tenant: UUID) -> FineTune:
        wanted = self.hyperparameters
        training, validation = self.training(connection, tenant), self.validation(connection, tenant)
        # Of a version's splits the run knows more.
        check_watched(wanted, validation is not None or training.kind == "version")
        return FineTune(
            base=self.base(connection, tenant, wanted if wanted.method == "lora" else None),
            training=training,
            validation=validation,
            suffix=self.suffix,
            seed=self.seed,
            hyperparameters=wanted,
            decoding=self.decoding,
        )
