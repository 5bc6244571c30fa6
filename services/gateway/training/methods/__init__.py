"""Every way of training that `/v1/training/jobs` takes: a module each, and the union of their bodies by `type`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, RootModel

from services.gateway.training.methods.base import MethodBody
from services.gateway.training.methods.distill import DistillBody
from services.gateway.training.methods.encoders import EncoderBody
from services.gateway.training.methods.heads import HeadBody
from services.gateway.training.methods.multi_task import MultiTaskBody
from services.gateway.training.methods.preferences import PreferenceBody
from services.gateway.training.methods.pretrain import PretrainBody
from services.gateway.training.methods.tune import TuneBody

AnyTraining = Annotated[
    PretrainBody | TuneBody | PreferenceBody | HeadBody | EncoderBody | MultiTaskBody | DistillBody,
    Field(discriminator="type"),
]
BODIES: tuple[type[MethodBody], ...] = (
    PretrainBody,
    TuneBody,
    PreferenceBody,
    HeadBody,
    EncoderBody,
    MultiTaskBody,
    DistillBody,
)
KINDS = tuple(body.kind.kind for body in BODIES)


class CreateTraining(RootModel[AnyTraining]):
    """A training job; `type` says which way."""
