"""Heads: layers that classify, measure or rank texts. What may be combined with what, and the job that trains one.

Pure; gateway and trainer check with the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import JobContract, Message
from shared.contracts.models import NAME
from shared.contracts.training import Auto, BaseRef, Count, DataRef, Positive
from shared.errors import InvalidInput

HeadKind = Literal["single_label", "multi_label", "regression", "rank_pairwise", "rank_pointwise"]
Method = Literal["full", "frozen", "lora", "lstm"]
RANKS = ("rank_pairwise", "rank_pointwise")
MAX_LABELS = 1000
# By head, the default first.
LOSSES: Mapping[str, tuple[str, ...]] = {
    "single_label": ("cross_entropy", "label_smoothing", "focal", "class_weighted"),
    "multi_label": ("binary_cross_entropy", "focal", "class_weighted"),
    "regression": ("squared_error", "huber"),
    "rank_pairwise": ("logistic", "hinge"),
    "rank_pointwise": ("binary_cross_entropy", "squared_error"),
}
# What only one loss or one method knows.
_OF_LOSS = {"label_smoothing": "label_smoothing", "focal_gamma": "focal", "margin": "hinge"}
_OF_METHOD = {
    "lora_r": "lora",
    "lora_alpha": "lora",
    "vocab_size": "lstm",
    "embedding_size": "lstm",
    "hidden_size": "lstm",
    "layers": "lstm",
}


class HeadParameters(Message):
    """Hyperparameters of a head; "auto" is chosen once data and base are seen, and told."""

    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    learning_rate: Positive | Auto = "auto"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | Auto = "auto"
    weight_decay: Annotated[float, Field(ge=0, le=1)] | Auto = "auto"
    dropout: Annotated[float, Field(ge=0, lt=1)] | Auto = "auto"
    max_length: Annotated[int, Field(ge=8, le=131_072)] | Auto = "auto"
    max_steps: Count | Auto = "auto"
    max_seconds: Annotated[float, Field(ge=1)] | Auto = "auto"
    checkpoint_every: Count | Auto = "auto"
    log_every: Count | Auto = "auto"
    # Of a file that comes without a validation file.
    validation_share: Annotated[float, Field(gt=0, lt=1)] | Auto = "auto"
    label_smoothing: Annotated[float, Field(gt=0, lt=1)] | Auto = "auto"
    focal_gamma: Annotated[float, Field(gt=0, le=10)] | Auto = "auto"
    margin: Annotated[float, Field(gt=0, le=100)] | Auto = "auto"
    lora_r: Annotated[int, Field(ge=1, le=512)] | Auto = "auto"
    lora_alpha: Positive | Auto = "auto"
    vocab_size: Annotated[int, Field(ge=300, le=200_000)] | Auto = "auto"
    embedding_size: Annotated[int, Field(ge=4, le=4096)] | Auto = "auto"
    hidden_size: Annotated[int, Field(ge=4, le=4096)] | Auto = "auto"
    layers: Annotated[int, Field(ge=1, le=8)] | Auto = "auto"


class HeadChoice(Message):
    """What is trained and how; `loss` "auto" is the first of LOSSES."""

    head: HeadKind
    method: Method = "full"
    loss: str = Field("auto", max_length=64)

    @property
    def named_loss(self) -> str:
        return LOSSES[self.head][0] if self.loss == "auto" else self.loss


class TrainHead(JobContract):
    """A head on a registered model, or an LSTM with a head from scratch; served as `name` when it is done."""

    kind: ClassVar[str] = "training.train_head"
    queue: ClassVar[str] = "training.{pool}"
    id_prefix: ClassVar[str] = "headjob-"
    stall_limit_s: ClassVar[float | None] = 900.0

    name: str = Field(pattern=NAME)
    choice: HeadChoice
    base: BaseRef | None = None
    training: DataRef
    validation: DataRef | None = None
    seed: int = Field(0, ge=0, le=2**31 - 1)
    hyperparameters: HeadParameters = HeadParameters()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_choice(self.choice, self.base is not None, self.hyperparameters)
        return self


def check_choice(choice: HeadChoice, has_base: bool, given: HeadParameters) -> None:
    """Raise InvalidInput for a loss, a base or a hyperparameter that does not go with head and method."""
    losses = LOSSES[choice.head]
    if choice.loss not in ("auto", *losses):
        raise InvalidInput(
            f"loss is {choice.loss!r}; a {choice.head} head has {', '.join(losses)}", param="loss"
        )
    if choice.method == "lstm" and has_base:
        raise InvalidInput("an lstm is trained from scratch and takes no model; leave it out", param="model")
    if choice.method != "lstm" and not has_base:
        raise InvalidInput(
            f"method {choice.method!r} needs a model to start from; name one, or take the method 'lstm'",
            code="missing_required_parameter",
            param="model",
        )
    set_ = {name for name, value in given if value != "auto"}
    for name in sorted(set_ & _OF_LOSS.keys()):
        if choice.named_loss != _OF_LOSS[name]:
            raise InvalidInput(
                f"{name} goes with the loss {_OF_LOSS[name]!r}, and the loss is {choice.named_loss!r}",
                param=f"hyperparameters.{name}",
            )
    for name in sorted(set_ & _OF_METHOD.keys()):
        if choice.method != _OF_METHOD[name]:
            raise InvalidInput(
                f"{name} goes with the method {_OF_METHOD[name]!r}, and the method is {choice.method!r}",
                param=f"hyperparameters.{name}",
            )
