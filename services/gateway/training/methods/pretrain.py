"""A causal model on raw text: from scratch, or one that exists, trained on."""

from __future__ import annotations

from typing import Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from services.gateway.models import repository as models_repository
from services.gateway.models import resolve
from services.gateway.training.methods.base import PinningBody, TrainingBody
from services.gateway.training.methods.versions import check_held_out
from shared.contracts.training import (
    PRETRAIN_NAME,
    Pretrain,
    PretrainParameters,
    check_context,
    check_continued,
)
from shared.db import Connection


class PretrainBody(TrainingBody, PinningBody):
    """Without `model`, from scratch, tokenizer included. With one, its weights (of an adapter, the adapter's own) are
    trained on; its tokenizer stays. The perplexity of held-out text, beside that of the model before, stands in the
    job's result."""

    kind = Pretrain

    type: Literal["pretrain"] = Field(
        description="A causal language model on raw text (`text`, or the turns of conversations)."
    )
    name: str = Field(pattern=PRETRAIN_NAME, description="What the finished model is served as.")
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="What is trained on: a base, or an adapter; left out, a new model is made.",
    )
    hyperparameters: PretrainParameters = Field(
        PretrainParameters(), description="Shape (without `model`), length and rate of the training."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.model is not None:
            check_continued(self.hyperparameters)
        return self

    def contract(self, connection: Connection, tenant: UUID) -> Pretrain:
        models_repository.check_free(connection, tenant, self.name)
        base = None
        if self.model is not None:
            row = resolve.model_row(connection, tenant, self.model)
            base = resolve.base_ref(row)
            check_context(self.hyperparameters, row["info"].get("context_length"))
        data, validation = self.training(connection, tenant), self.validation(connection, tenant)
        check_held_out(connection, tenant, self.hyperparameters, data, validation, of_files=True)
        return Pretrain(
            name=self.name,
            base=base,
            data=data,
            validation=validation,
            seed=self.seed,
            hyperparameters=self.hyperparameters,
            decoding=self.decoding,
        )
