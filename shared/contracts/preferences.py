"""Jobs that tune a model on preference pairs, their hyperparameters, and what a row of pairs looks like. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import JobContract, Message
from shared.contracts.early_stopping import EARLY_STOPPING_PATIENCE, KEEP_BEST, KeepBest, Patience
from shared.contracts.parameters import (
    CHECKPOINT_EVERY,
    LOG_EVERY,
    MAX_SECONDS,
    MAX_STEPS,
    N_EPOCHS,
    WARMUP_RATIO,
    Auto,
    Count,
    Positive,
    Rate,
)
from shared.contracts.pinned import PinnedDecoding
from shared.contracts.training import BaseRef, DataRef
from shared.contracts.tuning import PROCESSES, Processes
from shared.errors import InvalidInput

PreferenceLoss = Literal[
    "sigmoid", "ipo", "hinge", "robust", "exo_pair", "sigmoid_norm", "apo_zero", "apo_down"
]
# The losses that know of labels which are wrong, and the highest share of them that each can stand.
SMOOTHED: Mapping[str, float] = {"robust": 0.5, "exo_pair": 1.0}
_OPENAI = ("input", "preferred_output", "non_preferred_output")
_PAIR = ("prompt", "chosen", "rejected")
_LORA = ("lora_r", "lora_alpha", "target_modules", "use_rslora")


class PreferenceParameters(Message):
    """Tuning on preference pairs, LoRA by default. What is "auto" is chosen by model and data, and told."""

    method: Literal["lora", "full"] = Field(
        "lora", description="`lora` trains an adapter beside the weights, `full` trains every weight."
    )
    loss: PreferenceLoss = Field(
        "sigmoid",
        description="`sigmoid` is DPO's own (arXiv:2305.18290); `ipo` (arXiv:2310.12036) does not run away where all "
        "pairs agree; `hinge`; `robust` (arXiv:2403.00409) and `exo_pair` (arXiv:2402.00856) reckon with wrong labels; "
        "`sigmoid_norm` weighs answers by token; `apo_zero` and `apo_down` (arXiv:2408.06266) say whether the better "
        "answers are better or worse than the model's own.",
    )
    beta: Annotated[float, Field(gt=0, le=100)] | Auto = Field(
        "auto",
        description="How dear it is to move away from the model before (of `ipo`, the margin's inverse); auto is 0.1.",
    )
    label_smoothing: Annotated[float, Field(gt=0, lt=1)] | Auto = Field(
        "auto",
        description="Of the losses `robust` (under 0.5) and `exo_pair`: the share of pairs that is taken to be the "
        "wrong way round; auto is 0.1 and 0.001.",
    )
    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = N_EPOCHS
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = Field(
        "auto", description="Pairs of a step; auto by their length."
    )
    learning_rate: Rate | Auto = Field(
        "auto",
        description="Peak rate of AdamW; auto is 2e-5 (lora) or 1e-6 (full) at a width of 4096, more for narrower "
        "models.",
    )
    learning_rate_multiplier: Positive | Auto = Field(
        "auto", description="What the rate is multiplied by, given or auto; auto is 1."
    )
    lora_r: Annotated[int, Field(ge=1, le=512)] | Auto = Field(
        "auto",
        description="Rank of the adapter's matrices, at most the width of the narrowest layer; auto is 16.",
    )
    lora_alpha: Positive | Auto = Field(
        "auto", description="What their product is scaled by, over the rank; auto is twice the rank."
    )
    target_modules: tuple[str, ...] | Auto = Field(
        "auto", description="Names of the linear layers that are adapted; auto is all but the output layer."
    )
    use_rslora: bool = Field(False, description="Scale by alpha over the root of the rank.")
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | Auto = WARMUP_RATIO
    max_length: Annotated[int, Field(ge=16, le=131_072)] | Auto = Field(
        "auto",
        description="Most tokens of a prompt with one of its answers; longer pairs are left out. Auto is the model's "
        "context, at most 4,096.",
    )
    max_steps: Count | Auto = MAX_STEPS
    max_seconds: Annotated[float, Field(ge=1, le=1e8)] | Auto = MAX_SECONDS
    checkpoint_every: Count | Auto = CHECKPOINT_EVERY
    log_every: Count | Auto = LOG_EVERY
    processes: Processes = PROCESSES
    early_stopping_patience: Patience = EARLY_STOPPING_PATIENCE
    keep_best: KeepBest = KEEP_BEST

    @property
    def makes_adapter(self) -> bool:
        """Whether the run ends as an adapter, and not as a base."""
        return self.method == "lora"

    @property
    def serves_checkpoints(self) -> bool:
        """Whether its checkpoints can be served as its end can."""
        return True

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_preferences(self)
        return self


def check_preferences(given: PreferenceParameters) -> None:
    """Raise InvalidInput for a hyperparameter that does not go with method, loss or batch."""
    batch, processes = given.batch_size, given.processes
    if batch != "auto" and processes != "auto" and batch % processes:
        raise InvalidInput(
            f"batch_size {batch} cannot be shared out evenly among {processes} processes; it must be a multiple",
            param="hyperparameters.processes",
        )
    if given.method == "full":
        for name in _LORA:
            if getattr(given, name) not in ("auto", False):
                raise InvalidInput(
                    f"{name} goes with the method 'lora', and the method is 'full'",
                    param=f"hyperparameters.{name}",
                )
    if given.label_smoothing == "auto":
        return
    most = SMOOTHED.get(given.loss)
    if most is None:
        raise InvalidInput(
            f"label_smoothing goes with the losses {' and '.join(SMOOTHED)}, and the loss is {given.loss!r}",
            param="hyperparameters.label_smoothing",
        )
    if given.label_smoothing >= most:
        raise InvalidInput(
            f"label_smoothing is {given.label_smoothing}; with the loss {given.loss!r} it is under {most}",
            param="hyperparameters.label_smoothing",
        )


class TunePreferences(JobContract):
    """Of two answers to a prompt, make the better one likelier."""

    kind: ClassVar[str] = "training.preferences"
    queue: ClassVar[str] = "training.{pool}"
    id_prefix: ClassVar[str] = "ftjob-"
    stall_limit_s: ClassVar[float | None] = 900.0

    base: BaseRef
    training: DataRef
    validation: DataRef | None = None
    suffix: str | None = Field(default=None, min_length=1, max_length=64)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    hyperparameters: PreferenceParameters = PreferenceParameters()
    decoding: PinnedDecoding = PinnedDecoding()


def shape_of_record(record: Mapping[str, Any]) -> Literal["openai", "pair", "version"] | None:
    """How a row says its pair; None for one that has none."""
    if all(name in record for name in _OPENAI):
        return "openai"
    if all(record.get(name) is not None for name in _PAIR):
        return "pair"
    if record.get("messages") is not None and record.get("rejected") is not None:
        return "version"
    return None


def why_no_pair(record: Mapping[str, Any]) -> str:
    """What is wrong with a row that has no pair, and what would be right."""
    right = "`input`, `preferred_output` and `non_preferred_output`, or `prompt`, `chosen` and `rejected`"
    for names in (_OPENAI, _PAIR):
        missing = [name for name in names if record.get(name) is None]
        if 0 < len(missing) < len(names) and "messages" not in record:
            return f"the pair lacks {', '.join(f'`{name}`' for name in missing)}; a pair has {right}"
    if record.get("messages") is not None or (
        record.get("text") is not None and record.get("label") is not None
    ):
        return (
            "the row is a conversation with one answer, for supervised fine-tuning (method 'supervised', type 'sft'); "
            f"a preference pair has {right}"
        )
    return f"the row is no preference pair; one has {right}"


def why_no_conversation(record: Mapping[str, Any]) -> str | None:
    """What is wrong with a pair where conversations are wanted; None for any other row."""
    if shape_of_record(record) not in ("openai", "pair"):
        return None
    return (
        "the row is a preference pair, for preference tuning (method 'dpo'); supervised fine-tuning needs `messages`, "
        "or `text` with `label`"
    )
