"""From a training job's contract to what it asks of memory and how many steps it takes. Knows no SQL and no store.

What a run chooses by itself (batch, epochs) is chosen here by the same rules, as far as they can be known before the
data is read; a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from services.gateway.training.data import TrainingData
from services.gateway.training.plan import (
    Plan,
    chosen,
    epochs_of,
    lengths_of,
    looks,
    planned,
    rows_of_a_step,
    size_of,
)
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


def plan_of(
    contract: JobContract,
    base: ModelShape | None,
    data: TrainingData | None,
    parts: Sequence[TrainingData | None] = (),
) -> Plan | None:
    """None for a way of training that is not known here, and for a model whose shape does not say enough.

    `data` is of the first task where there are several, `parts` of each.
    """
    if isinstance(contract, TrainMultiTask):
        return _multi_task(contract, base, data, parts)
    way = _WAYS.get(type(contract))
    return way(contract, base, data) if way is not None else None


def _pretrain(job: Any, base: ModelShape | None, data: TrainingData | None) -> Plan | None:
    wanted = job.hyperparameters
    fresh = getattr(job, "base", None) is None
    if fresh:
        base = llama_shape(
            chosen(wanted.hidden_size, 128), chosen(wanted.layers, 4), chosen(wanted.vocab_size, 2048)
        )
    if base is None:
        return None
    length, longest = lengths_of(data, base, chosen(wanted.context_length, 512 if fresh else 1024))
    rows, tokens = size_of(data, base, longest)
    batch = chosen(wanted.batch_size, rows_of_a_step(PRETRAIN[0], rows, tokens))
    epochs = epochs_of(wanted, rows, batch, lambda: looks(PRETRAIN, tokens))
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
    return planned(demand, wanted, batch, epochs, rows, tokens)


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
    length, longest = lengths_of(data, base, chosen(wanted.max_length, 4096))
    rows, tokens = size_of(data, base, longest)
    rule, large = (PAIRS, LARGE_PAIRS) if pairs > 1 else (TUNE, LARGE)
    batch = chosen(
        wanted.batch_size, min(rows_of_a_step(rule[0], rows, tokens) if small else large[0], rows or 8)
    )
    epochs = epochs_of(wanted, rows, batch, lambda: looks(rule, tokens) if small else large[1])
    parts: Any = getattr(wanted, "gradient_accumulation_steps", "auto")
    at_once = pairs * max(1, batch if parts == "auto" else batch // parts)
    recompute = getattr(wanted, "gradient_checkpointing", "auto")
    demand = Demand(
        base,
        with_adapter(base, chosen(wanted.lora_r, 32 if small else 16)) if lora else base.parameters,
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
    # What the model before thinks of each pair is measured once.
    return planned(demand, wanted, batch, epochs, rows, tokens, read=tokens if pairs > 1 else 0)


def _head(job: Any, base: ModelShape | None, data: TrainingData | None) -> Plan | None:
    wanted, method = job.hyperparameters, job.choice.method
    if method == "lstm":
        base = _lstm(wanted)
    if base is None:
        return None
    length, longest = lengths_of(data, base, chosen(wanted.max_length, 256 if method == "lstm" else 512))
    rows, tokens = size_of(data, base, longest)
    batch = chosen(wanted.batch_size, min(32, max(4, (rows or 256) // 8)))
    target, fewest, most = HEAD_EPOCHS[method]
    epochs = epochs_of(wanted, rows, batch, lambda: max(fewest, min(most, round(target / (rows or 1)))))
    lora = method == "lora"
    trained = {"frozen": base.hidden, "lora": with_adapter(base, chosen(wanted.lora_r, 16))}
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
        found = planned(demand, wanted, batch, epochs, rows, tokens, computing=base.matrices, read=tokens)
        return replace(found, operations=6.0 * base.hidden * batch * (found.steps or 0))
    return planned(demand, wanted, batch, epochs, rows, tokens, computing=base.matrices)


def _multi_task(
    job: Any, base: ModelShape | None, data: TrainingData | None, parts: Sequence[TrainingData | None]
) -> Plan | None:
    """Memory by the first task's data: each step is of one task, and the longest texts decide; steps by all."""
    if base is None:
        return None
    wanted, lora = job.hyperparameters, job.method == "lora"
    length, longest = lengths_of(data, base, chosen(wanted.max_length, 512))
    known = [one for one in parts if one is not None]
    smallest = min((one.rows for one in known), default=128)
    batch = chosen(wanted.batch_size, min(32, max(4, smallest // 8)))
    rows, tokens, epochs = None, None, None
    if known and len(known) == len(parts):
        sizes = [size_of(one, base, longest) for one in known]
        rows, tokens = (sum(numbers) for numbers in zip(*sizes, strict=True))
        target, fewest, most = HEAD_EPOCHS["full"]
        epochs = epochs_of(wanted, rows, batch, lambda: max(fewest, min(most, round(target / (rows or 1)))))
    demand = Demand(
        base,
        with_adapter(base, chosen(wanted.lora_r, 16)) if lora else base.parameters,
        batch,
        length,
        batch,
        float32=True,
        held=HELD_BY_ADAPTERS if lora else HELD,
        longest=longest,
    )
    return planned(demand, wanted, batch, epochs, rows, tokens, computing=base.matrices)


def _encoder(job: Any, _: ModelShape | None, data: TrainingData | None) -> Plan | None:
    wanted = job.hyperparameters
    hidden, layers = chosen(wanted.hidden_size, 192), chosen(wanted.layers, 1)
    each = 4 * hidden * hidden + 4 * hidden * hidden + 13 * hidden
    vocabulary = ENCODER_VOCABULARY
    shape = ModelShape(layers * each + vocabulary * hidden, hidden, layers, 2 * hidden, vocabulary)
    # A token is a character here.
    longest = min(chosen(wanted.max_length, 128), data.most + 2 if data else 10**9)
    rows = data.rows if data else None
    batch = min(chosen(wanted.batch_size, 128), rows or 128)
    tokens = round(2 * rows * min(data.mean + 2, longest)) if data and rows else None
    epochs = epochs_of(wanted, rows, batch, lambda: max(1, round(ENCODER_TEXTS / (rows or 1))))
    demand = Demand(shape, shape.parameters, 2 * batch, longest, 2 * batch, float32=True)
    return planned(demand, wanted, batch, epochs, rows, tokens, computing=shape.matrices)


_WAYS: Mapping[type[JobContract], Callable[[Any, ModelShape | None, TrainingData | None], Plan | None]] = {
    Pretrain: _pretrain,
    FineTune: _tune,
    TunePreferences: _tune,
    TrainHead: _head,
    TrainEncoder: _encoder,
}


def _lstm(wanted: Any) -> ModelShape:
    """Both directions of each layer have four gates over inputs and states; what one keeps is about eight states."""
    vocabulary, embedding = chosen(wanted.vocab_size, 4096), chosen(wanted.embedding_size, 128)
    hidden, layers = chosen(wanted.hidden_size, 128), chosen(wanted.layers, 1)
    first = 8 * hidden * (embedding + hidden + 2)
    later = 8 * hidden * (3 * hidden + 2) * (layers - 1)
    return ModelShape(vocabulary * embedding + first + later, 2 * hidden, layers, hidden, vocabulary)
