"""The hyperparameters of each kind of run: names, ranges, defaults, strict parsing. Knows no torch.

`None` inside means "auto": the run picks the value once it has seen the data and the model, and reports it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from shared.errors import InvalidInput

T = TypeVar("T")


def _number(kind: type, low: float, high: float, default: Any = None) -> Any:
    return field(default=default, metadata={"kind": kind, "low": low, "high": high})


def _choice(*options: str) -> Any:
    return field(default=options[0], metadata={"kind": str, "options": options})


def _switch(default: bool | None = None) -> Any:
    return field(default=default, metadata={"kind": bool})


@dataclass(frozen=True)
class Steps:
    """How long and how fast a run of any kind is, and how often it looks up."""

    n_epochs: int | None = _number(int, 1, 1000)
    max_steps: int | None = _number(int, 1, 10_000_000)
    batch_size: int | None = _number(int, 1, 4096)
    learning_rate: float | None = _number(float, 1e-9, 10.0)
    warmup_ratio: float = _number(float, 0.0, 0.999, 0.05)
    max_seconds: float | None = _number(float, 1.0, 1e8)
    checkpoint_every: int | None = _number(int, 1, 10_000_000)
    log_every: int | None = _number(int, 1, 10_000_000)
    early_stopping_patience: int | None = _number(int, 1, 1000)
    keep_best: bool | None = _switch()

    def identity(self) -> dict[str, Any]:
        """What decides a run, for its fingerprint. What earlier releases did not know is left out where nothing is
        asked for, so that their checkpoints can be gone on from."""
        late = ("early_stopping_patience", "keep_best")
        return {name: value for name, value in asdict(self).items() if name not in late or value is not None}


@dataclass(frozen=True)
class HeldOut(Steps):
    """Of runs that hold a part of their rows out where no others are given."""

    validation_share: float = _number(float, 1e-6, 0.999, 0.2)


@dataclass(frozen=True)
class PretrainHyperparameters(Steps):
    """A Llama-shaped model from scratch. With the defaults: 1.1 million parameters."""

    vocab_size: int = _number(int, 300, 200_000, 2048)
    hidden_size: int = _number(int, 8, 16_384, 128)
    layers: int = _number(int, 1, 200, 4)
    heads: int = _number(int, 1, 256, 2)
    context_length: int = _number(int, 16, 131_072, 512)


@dataclass(frozen=True)
class SftHyperparameters(Steps):
    """Supervised fine-tuning on the assistant's answers: a LoRA adapter, or every weight."""

    method: str = _choice("lora", "full")
    loss: str = _choice("cross_entropy", "label_smoothing", "dft")
    label_smoothing: float = _number(float, 1e-6, 0.999, 0.1)
    lora_r: int | None = _number(int, 1, 512)
    lora_alpha: float | None = _number(float, 1e-4, 10_000.0)
    lora_dropout: float = _number(float, 0.0, 0.99, 0.0)
    target_modules: str | tuple[str, ...] = field(default="auto", metadata={"kind": tuple})
    use_rslora: bool = _switch(False)
    use_dora: bool = _switch(False)
    quantization: str = _choice("none", "nf4", "int8")
    learning_rate_multiplier: float = _number(float, 1e-4, 10_000.0, 1.0)
    max_length: int | None = _number(int, 16, 131_072)
    packing: bool | None = _switch()
    gradient_accumulation_steps: int | None = _number(int, 1, 4096)
    gradient_checkpointing: bool | None = _switch()
    compile: bool = _switch(False)
    processes: int | None = _number(int, 1, 64)

    @property
    def makes_adapter(self) -> bool:
        """Whether the run ends as an adapter; with DoRA it ends as a merged base."""
        return self.method == "lora" and not self.use_dora


@dataclass(frozen=True)
class DpoHyperparameters(Steps):
    """Tuning on preference pairs: a LoRA adapter, or every weight."""

    method: str = _choice("lora", "full")
    loss: str = _choice(
        "sigmoid", "ipo", "hinge", "robust", "exo_pair", "sigmoid_norm", "apo_zero", "apo_down"
    )
    beta: float = _number(float, 1e-6, 100.0, 0.1)
    label_smoothing: float | None = _number(float, 1e-6, 0.999)
    lora_r: int | None = _number(int, 1, 512)
    lora_alpha: float | None = _number(float, 1e-4, 10_000.0)
    target_modules: str | tuple[str, ...] = field(default="auto", metadata={"kind": tuple})
    use_rslora: bool = _switch(False)
    learning_rate_multiplier: float = _number(float, 1e-4, 10_000.0, 1.0)
    max_length: int | None = _number(int, 16, 131_072)
    processes: int | None = _number(int, 1, 64)


@dataclass(frozen=True)
class HeadHyperparameters(HeldOut):
    """A head: rates and lengths of its training, what its loss asks for, and the shape of an LSTM."""

    weight_decay: float = _number(float, 0.0, 1.0, 0.01)
    dropout: float = _number(float, 0.0, 0.99, 0.1)
    max_length: int | None = _number(int, 8, 131_072)
    label_smoothing: float = _number(float, 1e-6, 0.999, 0.1)
    focal_gamma: float = _number(float, 1e-6, 10.0, 2.0)
    margin: float = _number(float, 1e-6, 100.0, 1.0)
    contrastive_weight: float = _number(float, 1e-6, 0.999, 0.5)
    contrastive_temperature: float = _number(float, 1e-3, 1.0, 0.1)
    lora_r: int = _number(int, 1, 512, 16)
    lora_alpha: float | None = _number(float, 1e-4, 10_000.0)
    vocab_size: int = _number(int, 300, 200_000, 4096)
    embedding_size: int = _number(int, 4, 4096, 128)
    hidden_size: int = _number(int, 4, 4096, 128)
    layers: int = _number(int, 1, 8, 1)


@dataclass(frozen=True)
class MultiTaskHyperparameters(HeldOut):
    """Several heads on one trunk: how they are mixed, rates and lengths."""

    temperature: float = _number(float, 1.0, 1000.0, 2.0)
    weight_decay: float = _number(float, 0.0, 1.0, 0.01)
    dropout: float = _number(float, 0.0, 0.99, 0.1)
    max_length: int | None = _number(int, 8, 131_072)
    lora_r: int = _number(int, 1, 512, 16)
    lora_alpha: float | None = _number(float, 1e-4, 10_000.0)


@dataclass(frozen=True)
class EncoderHyperparameters(HeldOut):
    """A character-level sentence encoder from scratch. With the defaults: about 1.7 million parameters."""

    hidden_size: int = _number(int, 16, 1024, 192)
    layers: int = _number(int, 1, 24, 1)
    heads: int = _number(int, 1, 16, 4)
    max_length: int = _number(int, 16, 512, 128)
    batch_size: int | None = _number(int, 2, 4096)
    warmup_ratio: float = _number(float, 0.0, 0.999, 0.1)
    temperature: float = _number(float, 1e-3, 1.0, 0.05)
    dropout: float = _number(float, 0.0, 0.99, 0.2)


@dataclass(frozen=True)
class EvaluateHyperparameters:
    """How many held-out answers are asked for, and how."""

    limit: int = _number(int, 1, 100_000, 200)
    batch_size: int = _number(int, 1, 4096, 32)
    max_new_tokens: int | None = _number(int, 1, 131_072)


def parse(cls: type[T], given: Mapping[str, Any]) -> T:
    """Build `cls` from outside values; "auto" leaves the default. Raises InvalidInput that names the field."""
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # every caller passes a dataclass
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "known are " + ", ".join(sorted(known)) + "."
            raise InvalidInput(f"unknown hyperparameter {name!r}; {hint}", param=f"hyperparameters.{name}")
        if value is None or value == "auto":
            continue
        values[name] = _checked(name, value, known[name].metadata)
    parsed = cls(**values)
    if isinstance(parsed, EncoderHyperparameters) and parsed.hidden_size % parsed.heads:
        raise InvalidInput(
            f"hidden_size {parsed.hidden_size} must be a multiple of heads, which is {parsed.heads}",
            param="hyperparameters.hidden_size",
        )
    if isinstance(parsed, PretrainHyperparameters):
        _check_shape(parsed)
    return parsed


def _checked(name: str, value: Any, rule: Mapping[str, Any]) -> Any:
    param = f"hyperparameters.{name}"
    if "options" in rule:
        if value not in rule["options"]:
            raise InvalidInput(
                f"{name} is {value!r}; it must be one of {', '.join(rule['options'])}", param=param
            )
        return value
    if rule["kind"] is bool:
        if not isinstance(value, bool):
            raise InvalidInput(f"{name} is {value!r}; it must be true or false", param=param)
        return value
    if rule["kind"] is tuple:
        if isinstance(value, list | tuple) and value and all(isinstance(v, str) and v for v in value):
            return tuple(value)
        raise InvalidInput(f'{name} is {value!r}; it must be "auto" or a list of module names', param=param)
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (rule["kind"] is int and int(value) != value):
        want = "a whole number" if rule["kind"] is int else "a number"
        raise InvalidInput(f'{name} is {value!r}; it must be {want} or "auto"', param=param)
    if not rule["low"] <= value <= rule["high"]:
        raise InvalidInput(f"{name} is {value}; it must be from {rule['low']} to {rule['high']}", param=param)
    return rule["kind"](value)


def _check_shape(p: PretrainHyperparameters) -> None:
    if p.hidden_size % p.heads or (p.hidden_size // p.heads) % 2:
        raise InvalidInput(
            f"hidden_size {p.hidden_size} over {p.heads} heads is no even head size; "
            "hidden_size must be a multiple of 2 x heads",
            param="hyperparameters.hidden_size",
        )
