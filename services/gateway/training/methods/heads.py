"""Heads that classify, measure or rank texts, on any model or from scratch."""

from __future__ import annotations

from typing import Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from services.gateway.models import repository as models_repository
from services.gateway.models import resolve
from services.gateway.training.methods.base import TrainingBody
from services.gateway.training.methods.versions import check_version
from shared.contracts.heads import HeadChoice, HeadKind, HeadParameters, Method, TrainHead, check_choice
from shared.contracts.models import NAME
from shared.db import Connection


class HeadBody(TrainingBody):
    """The finished model is served by /v1/classifications or /v1/rerank; its figures on held-out rows, beside those
    of the majority class or a random order, stand in the job's result."""

    kind = TrainHead

    type: Literal["head"] = Field(description="A classifier, a regression or a ranker.")
    name: str = Field(pattern=NAME, description="What the finished model is served as.")
    head: HeadKind = Field(description="What is answered: one label, several, a number, or an order.")
    method: Method | None = Field(
        default=None,
        description="`full`, `frozen` (the last layer alone) or `lora` on `model`; `lstm` without one.",
    )
    loss: str = Field(
        "auto", min_length=1, max_length=64, description="By name; `auto` is the head's usual one."
    )
    model: str | None = Field(
        default=None, min_length=1, max_length=256, description="What the head stands on: any model of yours."
    )
    hyperparameters: HeadParameters = Field(
        HeadParameters(), description="Length and rate of the training, and what loss and method ask for."
    )

    @property
    def choice(self) -> HeadChoice:
        return HeadChoice(head=self.head, method=self.method or "full", loss=self.loss)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_choice(self.choice, self.model is not None, self.hyperparameters)
        return self

    def contract(self, connection: Connection, tenant: UUID) -> TrainHead:
        models_repository.check_free(connection, tenant, self.name)
        base = None
        if self.model is not None:
            base = resolve.trunk_ref(resolve.model_row(connection, tenant, self.model))
        training = self.training(connection, tenant)
        validation = self.validation(connection, tenant)
        check_version(connection, tenant, self.head, training, validation)
        return TrainHead(
            name=self.name,
            choice=self.choice,
            base=base,
            training=training,
            validation=validation,
            seed=self.seed,
            hyperparameters=self.hyperparameters,
        )
