"""What heads are trained with, be it one or several on a trunk: the hyperparameters that both have. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.contracts.base import Message
from shared.contracts.early_stopping import EARLY_STOPPING_PATIENCE, KEEP_BEST, KeepBest, Patience
from shared.contracts.parameters import (
    CHECKPOINT_EVERY,
    LOG_EVERY,
    MAX_SECONDS,
    MAX_STEPS,
    VALIDATION_SHARE,
    WARMUP_RATIO,
    Auto,
    Count,
    Dropout,
    Positive,
    Rate,
    Seconds,
    Share,
    Temperature,
    Warmup,
)


class LossSettings(Message):
    """What a loss by name asks for."""

    label_smoothing: Share | Auto = Field(
        "auto", description="Of the loss `label_smoothing`: what the other labels share; `auto` is 0.1."
    )
    focal_gamma: Annotated[float, Field(ge=1e-6, le=10)] | Auto = Field(
        "auto",
        description="Of the loss `focal`: how much less rows count that are right already; `auto` is 2.",
    )
    margin: Annotated[float, Field(ge=1e-6, le=100)] | Auto = Field(
        "auto", description="Of the loss `hinge`: how far the better document shall lie ahead; `auto` is 1."
    )
    contrastive_weight: Share | Auto = Field(
        "auto", description="Of the loss `contrastive`: its share beside the cross-entropy; `auto` is 0.5."
    )
    contrastive_temperature: Temperature | Auto = Field(
        "auto", description="Of the loss `contrastive`: the lower, the more near texts weigh; `auto` is 0.1."
    )


class TrunkParameters(Message):
    """Length and rate of the training, and how the trunk is tuned."""

    learning_rate: Rate | Auto = Field(
        "auto",
        description="Peak rate of the trunk; `auto` by method and width. Last layers learn ten times as fast.",
    )
    warmup_ratio: Warmup | Auto = WARMUP_RATIO
    weight_decay: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        "auto", description="AdamW's decay; `auto` is 0.01."
    )
    dropout: Dropout | Auto = Field(
        "auto", description="Before a last layer, and within an LSTM; `auto` is 0.1."
    )
    max_length: Annotated[int, Field(ge=8, le=131_072)] | Auto = Field(
        "auto",
        description="Tokens of a text at most, longer ones are cut; `auto` is what the model takes, to 512.",
    )
    max_steps: Count | Auto = MAX_STEPS
    max_seconds: Seconds | Auto = MAX_SECONDS
    checkpoint_every: Count | Auto = CHECKPOINT_EVERY
    log_every: Count | Auto = LOG_EVERY
    validation_share: Share | Auto = VALIDATION_SHARE
    early_stopping_patience: Patience = EARLY_STOPPING_PATIENCE
    keep_best: KeepBest = KEEP_BEST
    lora_r: Annotated[int, Field(ge=1, le=512)] | Auto = Field(
        "auto", description="Rank of the method `lora`, at most the trunk's width; `auto` is 16."
    )
    lora_alpha: Positive | Auto = Field(
        "auto", description="What LoRA's matrices are scaled by, over the rank; `auto` is twice the rank."
    )
