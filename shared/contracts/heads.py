"""Heads: layers that classify, measure or rank texts. What may be combined with what, and the job that trains one.

Pure; gateway and trainer check with the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import JobContract, Message
from shared.contracts.head_parameters import LossSettings, TrunkParameters
from shared.contracts.models import NAME
from shared.contracts.parameters import Auto, Batch, Epochs
from shared.contracts.training import BaseRef, DataRef
from shared.errors import InvalidInput

HeadKind = Literal["single_label", "multi_label", "regression", "rank_pairwise", "rank_pointwise"]
Method = Literal["full", "frozen", "lora", "lstm"]
RANKS = ("rank_pairwise", "rank_pointwise")
MAX_LABELS = 1000
# By head, the default first.
LOSSES: Mapping[str, tuple[str, ...]] = {
    "single_label": ("cross_entropy", "label_smoothing", "focal", "class_weighted", "contrastive"),
    "multi_label": ("binary_cross_entropy", "focal", "class_weighted"),
    "regression": ("squared_error", "huber"),
    "rank_pairwise": ("logistic", "hinge"),
    "rank_pointwise": ("binary_cross_entropy", "squared_error"),
}
# What only one loss or one method knows.
_OF_LOSS = {
    "label_smoothing": "label_smoothing",
    "focal_gamma": "focal",
    "margin": "hinge",
    "contrastive_weight": "contrastive",
    "contrastive_temperature": "contrastive",
}
_OF_METHOD = {
    "lora_r": "lora",
    "lora_alpha": "lora",
    "vocab_size": "lstm",
    "embedding_size": "lstm",
    "hidden_size": "lstm",
    "layers": "lstm",
}


class HeadParameters(TrunkParameters, LossSettings):
    """Hyperparameters of a head; "auto" is chosen once data and base are seen, and told."""

    n_epochs: Epochs | Auto = Field(
        "auto", description="How often all rows are seen; `auto` by rows and method: few rows, many epochs."
    )
    batch_size: Batch | Auto = Field(
        "auto", description="Rows of a step; `auto` is 32, fewer for under 256 rows."
    )
    vocab_size: Annotated[int, Field(ge=300, le=200_000)] | Auto = Field(
        "auto", description="Of an LSTM's tokenizer, which is trained on the rows; `auto` is 4,096."
    )
    embedding_size: Annotated[int, Field(ge=4, le=4096)] | Auto = Field(
        "auto", description="Numbers a token of an LSTM; `auto` is 128."
    )
    hidden_size: Annotated[int, Field(ge=4, le=4096)] | Auto = Field(
        "auto", description="Of an LSTM in each direction; `auto` is 128."
    )
    layers: Annotated[int, Field(ge=1, le=8)] | Auto = Field("auto", description="Of an LSTM; `auto` is 1.")


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
    if choice.method == "frozen" and choice.named_loss == "contrastive":
        raise InvalidInput(
            "the loss 'contrastive' moves the trunk, which the method 'frozen' leaves as it is; take full or lora",
            param="loss",
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
