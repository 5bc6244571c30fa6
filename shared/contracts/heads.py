"""Heads: layers that classify, measure or rank texts. What may be combined with what, and the job that trains one.

Pure; gateway and trainer check with the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import JobContract, Message
from shared.contracts.models import NAME
from shared.contracts.training import Auto, BaseRef, Count, DataRef, Positive, Rate
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


class HeadParameters(Message):
    """Hyperparameters of a head; "auto" is chosen once data and base are seen, and told."""

    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = Field(
        "auto", description="How often all rows are seen; `auto` by rows and method: few rows, many epochs."
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = Field(
        "auto", description="Rows of a step; `auto` is 32, fewer for under 256 rows."
    )
    learning_rate: Rate | Auto = Field(
        "auto",
        description="Peak rate of the trunk; `auto` by method and width. The last layer learns ten times as fast.",
    )
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | Auto = Field(
        "auto", description="Share of the steps in which the rate rises from nothing; `auto` is 0.05."
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        "auto", description="AdamW's decay; `auto` is 0.01."
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] | Auto = Field(
        "auto", description="Before the last layer, and within an LSTM; `auto` is 0.1."
    )
    max_length: Annotated[int, Field(ge=8, le=131_072)] | Auto = Field(
        "auto",
        description="Tokens of a text at most, longer ones are cut; `auto` is what the model takes, to 512.",
    )
    max_steps: Count | Auto = Field("auto", description="Steps at most, whatever the epochs come to.")
    max_seconds: Annotated[float, Field(ge=1, le=1e8)] | Auto = Field(
        "auto", description="Seconds of training that the steps are cut to, once the first ones are measured."
    )
    checkpoint_every: Count | Auto = Field(
        "auto", description="Steps between checkpoints; `auto` is a quarter of the run, 25 at least."
    )
    log_every: Count | Auto = Field(
        "auto", description="Steps between reported losses; `auto` is a fiftieth of the run."
    )
    validation_share: Annotated[float, Field(gt=0, lt=1)] | Auto = Field(
        "auto", description="Held out of a file that comes without a validation file; `auto` is 0.2."
    )
    label_smoothing: Annotated[float, Field(gt=0, lt=1)] | Auto = Field(
        "auto", description="Of the loss `label_smoothing`: what the other labels share; `auto` is 0.1."
    )
    focal_gamma: Annotated[float, Field(gt=0, le=10)] | Auto = Field(
        "auto",
        description="Of the loss `focal`: how much less rows count that are right already; `auto` is 2.",
    )
    margin: Annotated[float, Field(gt=0, le=100)] | Auto = Field(
        "auto", description="Of the loss `hinge`: how far the better document shall lie ahead; `auto` is 1."
    )
    contrastive_weight: Annotated[float, Field(gt=0, lt=1)] | Auto = Field(
        "auto", description="Of the loss `contrastive`: its share beside the cross-entropy; `auto` is 0.5."
    )
    contrastive_temperature: Annotated[float, Field(gt=0, le=1)] | Auto = Field(
        "auto", description="Of the loss `contrastive`: the lower, the more near texts weigh; `auto` is 0.1."
    )
    lora_r: Annotated[int, Field(ge=1, le=512)] | Auto = Field(
        "auto", description="Rank of the method `lora`, at most the trunk's width; `auto` is 16."
    )
    lora_alpha: Positive | Auto = Field(
        "auto", description="What LoRA's matrices are scaled by, over the rank; `auto` is twice the rank."
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
