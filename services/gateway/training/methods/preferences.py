"""Tuning on preference pairs, as `/v1/fine_tuning/jobs` has it too."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from services.gateway.training.methods.base import TuningBody
from shared.contracts.preferences import PreferenceParameters, TunePreferences
from shared.contracts.tuning import LoraParameters
from shared.db import Connection


class PreferenceBody(TuningBody):
    """Of two answers to a prompt the better one becomes likelier, measured by `model` itself. Rows are OpenAI's
    (`input`, `preferred_output`, `non_preferred_output`) or those of a labelling project's export (`prompt`, `chosen`,
    `rejected`). Of how many held-out pairs the better answer is the likelier one, before and after, stands in the
    job's result."""

    kind = TunePreferences

    type: Literal["dpo"] = Field(description="Direct preference optimisation on pairs of answers.")
    model: str = Field(
        min_length=1,
        max_length=256,
        description="What is tuned, and what is measured by: a base, or an adapter, which is trained further.",
    )
    hyperparameters: PreferenceParameters = Field(
        PreferenceParameters(), description="LoRA or all weights, loss, length and rate of the training."
    )

    def contract(self, connection: Connection, tenant: UUID) -> TunePreferences:
        wanted = self.hyperparameters
        adapter = LoraParameters(lora_r=wanted.lora_r, target_modules=wanted.target_modules)
        return TunePreferences(
            base=self.base(connection, tenant, adapter if wanted.method == "lora" else None),
            training=self.training(connection, tenant),
            validation=self.validation(connection, tenant),
            suffix=self.suffix,
            seed=self.seed,
            hyperparameters=wanted,
            decoding=self.decoding,
        )
