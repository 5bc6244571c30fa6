"""Supervised fine-tuning, as `/v1/fine_tuning/jobs` has it too."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from services.gateway import resolve
from services.gateway.methods.base import TrainingBody
from shared.contracts.training import FineTune, FineTuneParameters
from shared.contracts.tuning import check_adapter
from shared.db import Connection


class TuneBody(TrainingBody):
    """On the assistant's answers of conversations: a LoRA adapter on `model`, or every weight of it."""

    kind = FineTune

    type: Literal["sft"] = Field(description="Supervised fine-tuning on conversations.")
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
    hyperparameters: FineTuneParameters = Field(
        FineTuneParameters(), description="LoRA or all weights, length and rate of the training."
    )

    def contract(self, connection: Connection, tenant: UUID) -> FineTune:
        row = resolve.model_row(connection, tenant, self.model)
        base = resolve.base_ref(row)
        layers = row["info"].get("linear_layers")
        if layers and self.hyperparameters.method == "lora" and base.adapter_artifact is None:
            check_adapter(self.hyperparameters, layers)
        return FineTune(
            base=base,
            training=self.training(connection, tenant),
            validation=self.validation(connection, tenant),
            suffix=self.suffix,
            seed=self.seed,
            hyperparameters=self.hyperparameters,
        )
