"""Jobs of training: pretraining, fine-tuning and evaluation, and the hyperparameters of each."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.base import JobContract, Message

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
# Jobs that train nothing: they plan, wait for others, or grade. They never wait behind a long training.
LIGHT_QUEUE = "training.light"
PRETRAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class DataRef(Message):
    """Training data by content: a governed version (artifact tree) or an OpenAI chat file (single object)."""

    id: str
    kind: Literal["version", "file"]
    artifact: str


class BaseRef(Message):
    """A model by content: its public name and the artifact trees of base and, if any, adapter."""

    model: str
    base_artifact: str
    adapter_artifact: str | None = None


class PretrainParameters(Message):
    """From-scratch pretraining of a small causal LM; the default is about 1.3M parameters."""

    vocab_size: Annotated[int, Field(ge=300, le=200_000)] | Auto = "auto"
    hidden_size: Annotated[int, Field(ge=8, le=16_384)] | Auto = "auto"
    layers: Annotated[int, Field(ge=1, le=200)] | Auto = "auto"
    heads: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    context_length: Annotated[int, Field(ge=16, le=131_072)] | Auto = "auto"
    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = "auto"
    max_steps: Count | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    learning_rate: Positive | Auto = "auto"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | Auto = "auto"
    max_seconds: Annotated[float, Field(ge=1)] | Auto = "auto"
    checkpoint_every: Count | Auto = "auto"
    log_every: Count | Auto = "auto"


class FineTuneParameters(Message):
    """Supervised fine-tuning, LoRA by default."""

    method: Literal["lora", "full"] = "lora"
    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    learning_rate: Positive | Auto = "auto"
    learning_rate_multiplier: Positive | Auto = "auto"
    lora_r: Annotated[int, Field(ge=1, le=512)] | Auto = "auto"
    lora_alpha: Positive | Auto = "auto"
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] | Auto = "auto"
    target_modules: tuple[str, ...] | Auto = "auto"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | Auto = "auto"
    max_length: Annotated[int, Field(ge=16, le=131_072)] | Auto = "auto"
    max_steps: Count | Auto = "auto"
    max_seconds: Annotated[float, Field(ge=1)] | Auto = "auto"
    checkpoint_every: Count | Auto = "auto"
    log_every: Count | Auto = "auto"


class Pretrain(JobContract):
    """Train tokenizer and base from the text of a dataset version's training split."""

    kind: ClassVar[str] = "training.pretrain"
    queue: ClassVar[str] = "training.{pool}"
    id_prefix: ClassVar[str] = "ptjob-"
    stall_limit_s: ClassVar[float | None] = 900.0

    name: str = Field(pattern=PRETRAIN_NAME)
    data: DataRef
    seed: int = Field(0, ge=0, le=2**31 - 1)
    hyperparameters: PretrainParameters = PretrainParameters()


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
