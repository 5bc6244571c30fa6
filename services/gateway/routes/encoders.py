"""`/v1/training/encoders`: sentence encoders from scratch. Their jobs stand among those of `/v1/training/jobs`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from services.gateway import repository_models, resolve, shapes
from services.gateway.bodies import Body, Incoming, incoming
from services.gateway.context import GatewayDep
from services.gateway.docs import json_body
from services.gateway.metadata import Metadata
from services.gateway.submission import submit
from shared.contracts.encoders import EncoderParameters, TrainEncoder
from shared.contracts.models import NAME
from shared.db import Connection

router = APIRouter(tags=["training"])


class CreateEncoder(Body):
    """Rows have `text` and `label`: those of one label mean the same."""

    name: str = Field(pattern=NAME)
    training_file: str = Field(min_length=1, max_length=256)
    validation_file: str | None = Field(default=None, min_length=1, max_length=256)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    hyperparameters: EncoderParameters = EncoderParameters()
    metadata: Metadata | None = None


EXAMPLE = {
    "name": "zh-encoder",
    "training_file": "dsv-0123456789abcdef0123456789abcdef",
    "hyperparameters": {"n_epochs": 8},
}


@router.post(
    "/v1/training/encoders",
    summary="Train a sentence encoder from scratch",
    **json_body(CreateEncoder, EXAMPLE),
)
def create_encoder(
    gateway: GatewayDep, request: Annotated[Incoming[CreateEncoder], Depends(incoming(CreateEncoder))]
) -> dict[str, Any]:
    """By contrast: texts of one label are drawn together, others apart. The finished model is served under `name` by
    /v1/embeddings and by vector stores; how often held-out texts find their label stands in the job's result."""
    body, tenant = request.body, request.caller.tenant

    def make(connection: Connection) -> TrainEncoder:
        repository_models.check_free(connection, tenant, body.name)
        validation = None
        if body.validation_file is not None:
            validation = resolve.data_ref(connection, tenant, body.validation_file, param="validation_file")
        return TrainEncoder(
            name=body.name,
            training=resolve.data_ref(connection, tenant, body.training_file, param="training_file"),
            validation=validation,
            seed=body.seed,
            hyperparameters=body.hyperparameters,
        )

    return shapes.job(submit(gateway, request, TrainEncoder, make, metadata=body.metadata))
