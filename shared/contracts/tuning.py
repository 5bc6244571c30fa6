"""Fine-tuning of causal models: its hyperparameters, what goes with what, and whether an adapter fits a model. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import Message
from shared.contracts.early_stopping import EARLY_STOPPING_PATIENCE, KEEP_BEST, KeepBest, Patience
from shared.contracts.parameters import (
    BATCH_SIZE,
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
from shared.errors import InvalidInput

Quantization = Literal["none", "nf4", "int8"]
TuneLoss = Literal["cross_entropy", "label_smoothing", "dft"]


Processes = Annotated[int, Field(ge=1, le=64)] | Auto
PROCESSES: Any = Field(
    "auto",
    description="Over how many processes the model is sharded (FSDP2), one to a GPU; auto is the number of the "
    "worker's GPUs.",
)


class LoraParameters(Message):
    """What an adapter is made of, named as PEFT names it."""

    lora_r: Annotated[int, Field(ge=1, le=512)] | Auto = Field(
        "auto",
        description="Rank of the adapter's matrices, at most the width of the narrowest layer that they go on. "
        "Auto is 16, for models under 50 million parameters 32, or that width.",
    )
    lora_alpha: Positive | Auto = Field(
        "auto",
        description="What the product is scaled by, over the rank (or its root, with use_rslora); auto is twice "
        "the rank.",
    )
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] | Auto = Field(
        "auto", description="Share of the adapter's inputs that is dropped while training; auto is 0."
    )
    target_modules: tuple[str, ...] | Auto = Field(
        "auto",
        description='Names of the linear layers that are adapted, such as ["q_proj", "v_proj"]; auto is all of them '
        "but the output layer.",
    )
    use_rslora: bool = Field(
        False, description="Scale by alpha over the root of the rank, which keeps high ranks stable (rsLoRA)."
    )
    use_dora: bool = Field(
        False,
        description="Train the weights' length apart from their direction (DoRA). The finished model is merged and "
        "served as a base: a DoRA adapter is more than a low-rank product.",
    )
    quantization: Quantization = Field(
        "none",
        description="Keep the base in 4 bits (`nf4`) or 8 (`int8`) while the adapter is trained (QLoRA). Only on a "
        "worker with a GPU and bitsandbytes.",
    )


class FineTuneParameters(LoraParameters):
    """Supervised fine-tuning, LoRA by default. What is "auto" is chosen by model, data and device, and told."""

    method: Literal["lora", "full"] = Field(
        "lora", description="`lora` trains an adapter beside the weights, `full` trains every weight."
    )
    loss: TuneLoss = Field(
        "cross_entropy",
        description="`cross_entropy`, `label_smoothing` (a share of each target is spread over all tokens), or `dft` "
        "(each token weighed by its own probability, arXiv:2508.05629).",
    )
    label_smoothing: Annotated[float, Field(gt=0, lt=1)] | Auto = Field(
        "auto", description="The share that the loss `label_smoothing` spreads; auto is 0.1."
    )
    n_epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = N_EPOCHS
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = BATCH_SIZE
    learning_rate: Rate | Auto = Field(
        "auto",
        description="Peak rate of AdamW; auto is 2e-4 (lora) or 2e-5 (full) at a width of 4096, more for narrower "
        "models.",
    )
    learning_rate_multiplier: Positive | Auto = Field(
        "auto", description="What the rate is multiplied by, given or auto; auto is 1."
    )
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | Auto = WARMUP_RATIO
    max_length: Annotated[int, Field(ge=16, le=131_072)] | Auto = Field(
        "auto",
        description="Most tokens of a sequence; longer conversations are cut at a turn. Auto is the model's context, "
        "at most 4,096.",
    )
    max_steps: Count | Auto = MAX_STEPS
    max_seconds: Annotated[float, Field(ge=1, le=1e8)] | Auto = MAX_SECONDS
    checkpoint_every: Count | Auto = CHECKPOINT_EVERY
    log_every: Count | Auto = LOG_EVERY
    packing: bool | Auto = Field(
        "auto",
        description="Put sequences behind one another (best fit, none sees another) in place of padding. Auto: where "
        "more than a tenth would be padding.",
    )
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=4096)] | Auto = Field(
        "auto",
        description="In how many parts a step's batch is computed; batch_size stays what it is. Auto: as few as fit "
        "into memory.",
    )
    gradient_checkpointing: bool | Auto = Field(
        "auto",
        description="Compute activations twice to hold fewer of them, a third slower. Auto: where one sequence would "
        "not fit otherwise.",
    )
    compile: bool = Field(
        False,
        description="Compile the model with torch.compile first: minutes at the start, faster steps after. Needs a "
        "C++ compiler on the worker.",
    )
    processes: Processes = PROCESSES
    early_stopping_patience: Patience = EARLY_STOPPING_PATIENCE
    keep_best: KeepBest = KEEP_BEST

    @property
    def makes_adapter(self) -> bool:
        """Whether the run ends as an adapter; with DoRA it ends as a merged base."""
        return self.method == "lora" and not self.use_dora

    @property
    def serves_checkpoints(self) -> bool:
        """Whether its checkpoints can be served as its end can; one of DoRA is an adapter that nothing serves."""
        return not self.use_dora

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_tuning(self)
        return self


def check_tuning(given: FineTuneParameters) -> None:
    """Raise InvalidInput for a hyperparameter that does not go with method, loss or quantization."""
    if given.method == "full":
        for name, default in LoraParameters():
            if getattr(given, name) != default:
                raise InvalidInput(
                    f"{name} goes with the method 'lora', and the method is 'full'",
                    param=f"hyperparameters.{name}",
                )
    if given.label_smoothing != "auto" and given.loss != "label_smoothing":
        raise InvalidInput(
            f"label_smoothing goes with the loss 'label_smoothing', and the loss is {given.loss!r}",
            param="hyperparameters.label_smoothing",
        )
    if given.quantization != "none" and given.use_dora:
        raise InvalidInput(
            "use_dora ends as a merged base, which a quantized one cannot be; leave out use_dora or quantization",
            param="hyperparameters.use_dora",
        )
    if given.quantization != "none" and given.processes not in ("auto", 1):
        raise InvalidInput(
            f"a base in {given.quantization} is not sharded; with quantization, processes is 1",
            param="hyperparameters.processes",
        )
    parts, batch = given.gradient_accumulation_steps, given.batch_size
    processes = 1 if given.processes == "auto" else given.processes
    if batch != "auto" and batch % ((1 if parts == "auto" else parts) * processes):
        name = "processes" if parts == "auto" else "gradient_accumulation_steps"
        raise InvalidInput(
            f"batch_size {batch} cannot be shared out evenly; it must be a multiple of gradient_accumulation_steps x "
            "processes",
            param=f"hyperparameters.{name}",
        )


def check_adapter(
    given: LoraParameters, layers: Mapping[str, int], *, param: str = "hyperparameters"
) -> None:
    """Raise InvalidInput for target modules that a model does not have, or a rank over the width of one that is meant.

    `layers` is the least of inputs and outputs by the name of each linear layer, the output layer left out.
    """
    wanted = sorted(layers) if given.target_modules == "auto" else given.target_modules
    if not wanted:
        raise InvalidInput(
            'target_modules is empty; name layers, or leave it "auto"', param=f"{param}.target_modules"
        )
    for name in wanted:
        if name not in layers:
            near = difflib.get_close_matches(name, layers, 1)
            hint = (
                f"did you mean {near[0]!r}?" if near else "those that it has are " + ", ".join(sorted(layers))
            )
            raise InvalidInput(
                f"the model has no linear layer {name!r} that an adapter may go on; {hint}",
                param=f"{param}.target_modules",
            )
    narrowest = min(wanted, key=lambda name: layers[name])
    if given.lora_r != "auto" and given.lora_r > layers[narrowest]:
        raise InvalidInput(
            f"lora_r is {given.lora_r}, over the width of the layer {narrowest!r}; with these target modules it is at "
            f"most {layers[narrowest]}",
            param=f"{param}.lora_r",
        )
