"""From a training job's contract to what it asks of memory and how many steps it takes. Knows no SQL and no store.

What a run chooses by itself (batch, epochs) is chosen here by the same rules, as far as they can be known before the
data is read; a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from services.gateway.training.data import TrainingData
from shared.contracts.base import JobContract
from shared.contracts.encoders import TrainEncoder
from shared.contracts.estimates import (
    HELD,
    HELD_BY_ADAPTERS,
    Demand,
    ModelShape,
    llama_shape,
    with_adapter,
)
from shared.contracts.heads import TrainHead
from shared.contracts.multi_task import TrainMultiTask
from shared.contracts.preferences import TunePreferences
from shared.contracts.training import FineTune, Pretrain

# Positions that pretraining computes at once, whatever the batch.
MICRO_TOKENS = 4096
SMALL_MODEL = 50_000_000
# Characters that a new encoder knows beside those of its texts, and has a vector for: see its tokenizer.
ENCODER_VOCABULARY = 7_300
# Tokens of a step, tokens that all epochs together should come to, and the most epochs: of new bases, and of models
# under SMALL_MODEL that are tuned.
PRETRAIN = (1152, 380_000, 20)
TUNE = (768, 220_000, 20)
PAIRS = (1536, 150_000, 10)
# Rows of a step and epochs of a model that is not small.
LARGE, LARGE_PAIRS = (8, 3), (16, 1)
# Bytes of a weight of a quantized base, its scales counted in (Dettmers et al. 2023, arXiv:2305.14314, section 3).
QUANTIZED: Mapping[str, float] = {"nf4": 0.56, "int8": 1.06}
# What TRL and datasets take beside the libraries of every trainer: measured.
TRL_BYTES = 75 * 2**20
# Texts that all epochs of an encoder together should come to.
ENCODER_TEXTS = 160_000
# Rows that all epochs of a head together should come to, the fewest and the most epochs, by method.
HEAD_EPOCHS: Mapping[str, tuple[int, int, int]] = {
    "full": (32_000, 3, 20),
    "lora": (32_000, 3, 20),
    "lstm": (100_000, 8, 60),
    "frozen": (400_000, 20, 200),
}


@dataclass(frozen=True)
class Plan:
    """A run before it begins. `steps` and `tokens` (of all epochs) are None where the data is not known."""

    demand: Demand
    batch_size: int
    epochs: float | None
    steps: int | None
    tokens: int | None
    max_seconds: float | None


def plan_of(contract: JobContract, base: ModelShape | None, data: TrainingData | None) -> Plan | None:
    """None for a way of training that is not known here, and for a model whose shape does not say enough."""
    way = _WAYS.get(type(contract))
    return way(contract, base, data) if way is not None else None


def _pretrain(job: Any, base: ModelShape | None, data: TrainingData | None) -> Plan | None:
    wanted = job.hyperparameters
    fresh = getattr(job, "base", None) is None
    if fresh:
        base = llama_shape(_or(wanted.hidden_size, 128), _or(wanted.layers, 4), _or(wanted.vocab_size, 2048))
    if base is None:
        return None
    length, longest = _lengths(data, base, _or(wanted.context_length, 512 if fresh else 1024))
    rows, tokens = _size(data, base, longest)
    batch = _or(wanted.batch_size, _by_tokens(PRETRAIN[0], rows, tokens))
    epochs = _epochs(wanted, rows, batch, lambda: _looks(PRETRAIN, tokens))
    adapter = not fresh and job.base.adapter_artifact is not None
    trainable = with_adapter(base, 16) if adapter else base.parameters
    at_once = max(1, min(batch, MICRO_TOKENS // length))
    demand = Demand(
        base,
        trainable,
        at_once,
        length,
        at_once,
        state=1.0 if fresh else 2.0,
        logits=at_once * length,
        held=HELD_BY_ADAPTERS if adapter else HELD,
        longest=longest,
    )
    return _plan(demand, wanted, batch, epochs, rows, tokens)


def _tune(job: Any, base: ModelShape | None, data: TrainingData | None) -> Plan | None:
    """Supervised fine-tuning, and preference pairs, each of which is two sequences."""
    if base is None:
        return None
    wanted, lora = job.hyperparameters, job.hyperparameters.method == "lora"
    pairs = 2 if isinstance(job, TunePreferences) else 1
    if data is not None and pairs > 1:
        # A row holds question and both answers, about as long as each other; a sequence is the question with one.
        most, high = math.ceil(data.most * 2 / 3), math.ceil(data.high * 2 / 3)
        data = replace(data, mean=data.mean * 4 / 3, most=most, high=high)
    small = base.parameters < SMALL_MODEL
    length, longest = _lengths(data, base, _or(wanted.max_length, 4096))
    rows, tokens = _size(data, base, longest)
    rule, large = (PAIRS, LARGE_PAIRS) if pairs > 1 else (TUNE, LARGE)
    batch = _or(wanted.batch_size, min(_by_tokens(rule[0], rows, tokens) if small else large[0], rows or 8))
    epochs = _epochs(wanted, rows, batch, lambda: _looks(rule, tokens) if small else large[1])
    parts: Any = getattr(wanted, "gradient_accumulation_steps", "auto")
    at_once = pairs * max(1, batch if parts == "auto" else batch // parts)
    recompute = getattr(wanted, "gradient_checkpointing", "auto")
    demand = Demand(
        base,
        with_adapter(base, _or(wanted.lora_r, 32 if small else 16)) if lora else base.parameters,
        at_once,
        length,
        pairs if parts == "auto" else at_once,
        recompute=None if recompute == "auto" else bool(recompute),
        logits=1024 if isinstance(job, FineTune) else at_once * length,
        held=HELD_BY_ADAPTERS if lora else HELD,
        longest=longest,
        weight_bytes=QUANTIZED.get(getattr(wanted, "quantization", "none")),
        libraries=TRL_BYTES,
    )
    return _plan(demand, wanted, batch, epochs, rows, tokens)


def _head(job: Any, base: ModelShape | None, data: TrainingData | None) -> Plan | None:
    wanted, method = job.hyperparameters, job.choice.method
    if method == "lstm":
        base = _lstm(wanted)
    if base is None:
        return None
    length, longest = _lengths(data, base, _or(wanted.max_length, 256 if method == "lstm" else 512))
    rows, tokens = _size(data, base, longest)
    batch = _or(wanted.batch_size, min(32, max(4, (rows or 256) // 8)))
    target, fewest, most = HEAD_EPOCHS[method]
    epochs = _epochs(wanted, rows, batch, lambda: max(fewest, min(most, round(target / (rows or 1)))))
    lora = method == "lora"
    trained = {"frozen": base.hidden, "lora": with_adapter(base, _or(wanted.lora_r, 16))}
    texts = batch * (2 if job.choice.head == "rank_pairwise" else 1)
    demand = Demand(
        base,
        trained.get(method, base.parameters),
        texts,
        length,
        texts,
        float32=True,
        held=HELD_BY_ADAPTERS if lora else HELD,
        longest=longest,
    )
    if method == "frozen":
        # What the trunk makes of the texts is made once, and nothing is kept for a way back.
        demand = Demand(base, base.hidden, 1, longest, 1, float32=True)
    return _plan(demand, wanted, batch, epochs, rows, tokens)


def _multi_task(job: Any, base: ModelShape | None, data: TrainingData | None) -> Plan | None:
    """By the first task's data: each step is of one task, and the longest texts decide."""
    if base is None:
        return None
    wanted, lora = job.hyperparameters, job.method == "lora"
    length, longest = _lengths(data, base, _or(wanted.max_length, 512))
    batch = _or(wanted.batch_size, 32)
    demand = Demand(
        base,
        with_adapter(base, _or(wanted.lora_r, 16)) if lora else base.parameters,
        batch,
        length,
        batch,
        float32=True,
        held=HELD_BY_ADAPTERS if lora else HELD,
        longest=longest,
    )
    return _plan(demand, wanted, batch, None, None, None)


def _encoder(job: Any, _: ModelShape | None, data: TrainingData | None) -> Plan | None:
    wanted = job.hyperparameters
    hidden, layers = _or(wanted.hidden_size, 192), _or(wanted.layers, 1)
    each = 4 * hidden * hidden + 4 * hidden * hidden + 13 * hidden
    vocabulary = ENCODER_VOCABULARY
    shape = ModelShape(layers * each + vocabulary * hidden, hidden, layers, 2 * hidden, vocabulary)
    # A token is a character here.
    longest = min(_or(wanted.max_length, 128), data.most + 2 if data else 10**9)
    rows = data.rows if data else None
    batch = min(_or(wanted.batch_size, 128), rows or 128)
    tokens = round(2 * rows * min(data.mean + 2, longest)) if data and rows else None
    epochs = _epochs(wanted, rows, batch, lambda: max(1, round(ENCODER_TEXTS / (rows or 1))))
    demand = Demand(shape, shape.parameters, 2 * batch, longest, 2 * batch, float32=True)
    return _plan(demand, wanted, batch, epochs, rows, tokens)


_WAYS: Mapping[type[JobContract], Callable[[Any, ModelShape | None, TrainingData | None], Plan | None]] = {
    Pretrain: _pretrain,
    FineTune: _tune,
    TunePreferences: _tune,
    TrainHead: _head,
    TrainMultiTask: _multi_task,
    TrainEncoder: _encoder,
}


def _plan(
    demand: Demand, wanted: Any, batch: int, epochs: float | None, rows: int | None, tokens: int | None
) -> Plan:
    most = None if wanted.max_steps == "auto" else int(wanted.max_steps)
    steps = math.ceil(rows * epochs / batch) if rows and epochs else None
    if most is not None:
        steps = min(steps, most) if steps is not None else most
    seen = tokens * min(epochs, steps * batch / rows) if tokens and epochs and rows and steps else None
    budget = None if wanted.max_seconds == "auto" else float(wanted.max_seconds)
    return Plan(demand, batch, epochs, steps, round(seen) if seen else None, budget)


def _epochs(wanted: Any, rows: int | None, batch: int, auto: Callable[[], int]) -> float | None:
    """As asked for, else as many as the steps that were asked for come to, else by the rule of the way."""
    if wanted.n_epochs != "auto":
        return int(wanted.n_epochs)
    if rows is None:
        return None
    if wanted.max_steps != "auto":
        return math.ceil(int(wanted.max_steps) * batch / rows)
    return auto()


def _looks(rule: tuple[int, int, int], tokens: int | None) -> int:
    """Epochs that bring a corpus near the rule's tokens."""
    return max(1, min(rule[2], round(rule[1] / max(tokens or 1, 1))))


def _by_tokens(step_tokens: int, rows: int | None, tokens: int | None) -> int:
    """Rows of a step that come to about `step_tokens`."""
    return max(4, min(64, round(step_tokens * rows / tokens))) if rows and tokens else 16


def _size(data: TrainingData | None, shape: ModelShape, longest: int) -> tuple[int | None, int | None]:
    """(rows, tokens of one look at all of them)."""
    if data is None:
        return None, None
    return data.rows, round(data.rows * min(longest, data.tokens_a_row(shape.vocabulary)))


def _lengths(data: TrainingData | None, shape: ModelShape, most: int) -> tuple[int, int]:
    """Tokens of (a text of a batch of long ones, the longest text), at most `most` and what the model takes."""
    most = min(most, shape.positions)
    if data is None:
        return most, most
    return min(most, data.usual(shape.vocabulary)), min(most, data.longest(shape.vocabulary))


def _lstm(wanted: Any) -> ModelShape:
    """Both directions of each layer have four gates over inputs and states; what one keeps is about eight states."""
    vocabulary, embedding = _or(wanted.vocab_size, 4096), _or(wanted.embedding_size, 128)
    hidden, layers = _or(wanted.hidden_size, 128), _or(wanted.layers, 1)
    first = 8 * hidden * (embedding + hidden + 2)
    later = 8 * hidden * (3 * hidden + 2) * (layers - 1)
    return ModelShape(vocabulary * embedding + first + later, 2 * hidden, layers, hidden, vocabulary)


def _or(value: Any, auto: int) -> int:
    return auto if value == "auto" else int(value)
