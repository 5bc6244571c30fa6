"""Jobs of training: pretraining, fine-tuning and evaluation, and the hyperparameters of each."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.base import JobContract, Message
from shared.contracts.early_stopping import EARLY_STOPPING_PATIENCE, KeepBest, Patience
from shared.contracts.parameters import (
    BATCH_SIZE,
    CHECKPOINT_EVERY,
    LOG_EVERY,
    MAX_SECONDS,
    MAX_STEPS,
    N_EPOCHS,
    WARMUP_RATIO,
    Auto,
    Batch,
    Count,
    Epochs,
    Positive,
    Rate,
    Seconds,
    Warmup,
)
from shared.contracts.pinned import PinnedDecoding
from shared.contracts.tuning import FineTuneParameters
from shared.errors import InvalidInput

__all__ = [
    "Auto",
    "BaseRef",
    "Count",
    "DataRef",
    "Evaluate",
    "FineTune",
    "FineTuneParameters",
    "Positive",
    "Pretrain",
    "PretrainParameters",
    "Rate",
]

# Jobs that train nothing: they plan, wait for others, or grade. They never wait behind a long training.
LIGHT_QUEUE = "training.light"
PRETRAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class DataRef(Message):
    """Training data by content: a governed version (artifact tree) or an OpenAI chat file (single object)."""

    id: str
    kind: Literal["version", "file"]
    artifact: str


class BaseRef(Message):
    """A model by content: its public name and the artifact trees of base and, if any, adapter.

    `base` is the name of an adapter's base, where it is known.
    """

    model: str
    base_artifact: str
    adapter_artifact: str | None = None
    base: str | None = None

    @property
    def root(self) -> str:
        """What an adapter that is made of this model stands on."""
        return self.base or self.model


class PretrainParameters(Message):
    """Pretraining of a causal LM: from scratch, by default of about 1.3M parameters, or of a model that exists, which
    has its shape."""

    vocab_size: Annotated[int, Field(ge=300, le=200_000)] | Auto = Field(
        "auto", description="Most entries of the tokenizer that is trained on the same text; auto is 2,048."
    )
    hidden_size: Annotated[int, Field(ge=8, le=16_384)] | Auto = Field(
        "auto", description="Width of the layers, a multiple of 2 x heads; auto is 128."
    )
    layers: Annotated[int, Field(ge=1, le=200)] | Auto = Field(
        "auto", description="How many layers; auto is 4."
    )
    heads: Annotated[int, Field(ge=1, le=256)] | Auto = Field(
        "auto", description="Attention heads of a layer; auto is 2."
    )
    context_length: Annotated[int, Field(ge=16, le=131_072)] | Auto = Field(
        "auto",
        description="Most tokens that the model sees at once; longer texts are cut. Auto is 512, of a model that is "
        "trained on its own context, at most 1,024.",
    )
    n_epochs: Epochs | Auto = N_EPOCHS
    max_steps: Count | Auto = MAX_STEPS
    batch_size: Batch | Auto = BATCH_SIZE
    learning_rate: Rate | Auto = Field(
        "auto",
        description="Peak rate of the matrices (Muon); auto is 0.008 at a width of 128, less for wider. Of a model "
        "that is trained on, of AdamW: 1e-4 (an adapter 2e-4) at a width of 4096, more for narrower.",
    )
    warmup_ratio: Warmup | Auto = WARMUP_RATIO
    max_seconds: Seconds | Auto = MAX_SECONDS
    checkpoint_every: Count | Auto = CHECKPOINT_EVERY
    log_every: Count | Auto = LOG_EVERY
    early_stopping_patience: Patience = EARLY_STOPPING_PATIENCE
    keep_best: KeepBest = Field(
        "auto",
        description="Whether the weights of the look with the lowest `valid_loss` are kept, and not the last ones; "
        "`best_step` in the result says whose they are. Auto is true where held-out texts are watched, but for a new "
        "model without early_stopping_patience, which is nearly always best at its end.",
    )


def check_continued(given: PretrainParameters) -> None:
    """Raise InvalidInput for a hyperparameter that shapes a new model where one is trained on."""
    for name in ("vocab_size", "hidden_size", "layers", "heads"):
        if getattr(given, name) != "auto":
            raise InvalidInput(
                f"{name} shapes a model from scratch; one that is trained on keeps its own. Leave out {name}, or model",
                param=f"hyperparameters.{name}",
            )


def check_context(given: PretrainParameters, reads: int | None) -> None:
    """Raise InvalidInput where pieces of text are asked for that are longer than what the model reads, if known."""
    asked = given.context_length
    if asked != "auto" and reads is not None and asked > reads:
        raise InvalidInput(
            f"context_length is {asked}, but the model that this run starts from reads {reads} tokens",
            param="hyperparameters.context_length",
        )


class Pretrain(JobContract):
    """Train on the text of a file or of a version's training split: tokenizer and base from scratch, or the model
    `base`, adapter or not, further."""

    kind: ClassVar[str] = "training.pretrain"
    queue: ClassVar[str] = "training.{pool}"
    id_prefix: ClassVar[str] = "ptjob-"
    stall_limit_s: ClassVar[float | None] = 900.0

    name: str = Field(pattern=PRETRAIN_NAME)
    base: BaseRef | None = None
    data: DataRef
    validation: DataRef | None = None
    seed: int = Field(0, ge=0, le=2**31 - 1)
    hyperparameters: PretrainParameters = PretrainParameters()
    decoding: PinnedDecoding = PinnedDecoding()


class FineTune(JobContract):
    """Supervised fine-tuning of a base on the assistant's answers."""

    kind: ClassVar[str] = "training.fine_tune"
    queue: ClassVar[str] = "training.{pool}"
    id_prefix: ClassVar[str] = "ftjob-"
    stall_limit_s: ClassVar[float | None] = 900.0

    base: BaseRef
    training: DataRef
    validation: DataRef | None = None
    suffix: str | None = Field(default=None, min_length=1, max_length=64)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    hyperparameters: FineTuneParameters = FineTuneParameters()
    decoding: PinnedDecoding = PinnedDecoding()


class Evaluate(JobContract):
    """Score a model on the held-out split of a dataset version, by greedy generation."""

    kind: ClassVar[str] = "training.evaluate"
    queue: ClassVar[str] = "training.{pool}"
    id_prefix: ClassVar[str] = "evaljob-"
    stall_limit_s: ClassVar[float | None] = 900.0

    model: BaseRef
    data: DataRef
    limit: int = Field(200, ge=1, le=100_000)
    seed: int = Field(0, ge=0, le=2**31 - 1)
