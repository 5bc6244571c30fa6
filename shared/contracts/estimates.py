"""How much memory a way of training takes, from the shape of its model. Pure; gateway and trainer count alike.

AdamW keeps the gradient and two running means of each trained number (Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054,
section 3.1). A layer keeps for the backward pass about nine vectors of its width and four of its feed-forward's for
each token (after Korthikanti et al. 2022, arXiv:2205.05198, section 4, without the table of attention, which is
computed in pieces), and its input alone where activations are computed twice. That is the least there is, by which a
job is refused; what allocators and passing copies make of it was measured (tests/bench/RESULTS.md), and is in the
estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The libraries of a trainer, before it has loaded anything: measured on a CPU. On a GPU its context: a guess.
RUNTIME_BYTES: Mapping[str, int] = {"cpu": 520 * 2**20, "cuda": 600 * 2**20}
# Measured over published activations.
HELD, HELD_BY_ADAPTERS = 1.55, 2.5
# A logit, its share in the softmax, and its gradient.
_LOGIT_BYTES = 12


@dataclass(frozen=True)
class ModelShape:
    """What memory is in proportion to. `stored_bytes` is the size of one number in the model's files."""

    parameters: int
    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    stored_bytes: int = 4
    # Most tokens that the model sees at once, where its configuration says.
    positions: int = 10**9

    @property
    def matrices(self) -> int:
        """Parameters of the layers alone: those that are no table of tokens."""
        return max(0, self.parameters - self.vocabulary * self.hidden)


@dataclass(frozen=True)
class Demand:
    """A run: `rows` texts of about `length` tokens a step, one of `longest`, by which `trainable` parameters learn.

    `least_rows` may be computed at once where all do not fit. `recompute` is whether activations are computed twice;
    None leaves it to the run. `state` is how many numbers the optimizer keeps of each trained one, `logits` for how
    many tokens a row of the vocabulary is held; 0 for a model that has none. `held` is what is measured over the
    published activations.
    """

    shape: ModelShape
    trainable: int
    rows: int
    length: int
    least_rows: int
    recompute: bool | None = False
    state: float = 2.0
    logits: int = 0
    float32: bool = False
    held: float = HELD
    # Bytes of a weight that is kept smaller than it is stored, and of libraries that not every trainer has.
    weight_bytes: float | None = None
    libraries: int = 0
    longest: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for, and how the step is computed then."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    runtime: int
    rows_at_once: int
    recompute: bool
    # Of the activations, what allocators and passing copies add.
    overhead: int

    @property
    def total(self) -> int:
        return self.least + self.overhead

    @property
    def least(self) -> int:
        """Below this nothing runs."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.runtime

    def told(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.activations + self.overhead,
            "runtime": self.runtime,
            "total": self.total,
        }


def memory_of(demand: Demand, device: str, rows: int, *, recompute: bool) -> Memory:
    """Of a step that computes `rows` at once."""
    shape = demand.shape
    width = 4 if device == "cpu" or demand.float32 else shape.stored_bytes
    layer = 9 * shape.hidden + 4 * shape.intermediate
    per_token = shape.layers * shape.hidden + layer if recompute else shape.layers * layer
    tokens = max(rows * demand.length, demand.longest) if rows else 0
    activations = tokens * per_token * width
    logits = min(demand.logits, tokens) * shape.vocabulary * _LOGIT_BYTES
    return Memory(
        weights=round(shape.parameters * (demand.weight_bytes or width)),
        gradients=demand.trainable * 4,
        optimizer=round(demand.trainable * 4 * demand.state),
        activations=activations + logits,
        runtime=RUNTIME_BYTES[device] + demand.libraries,
        rows_at_once=rows,
        recompute=recompute,
        overhead=round(activations * (demand.held - 1)),
    )


def fitting(demand: Demand, device: str, limit: int | None) -> Memory:
    """As many rows at once as fit into `limit`, activations computed twice only where one row would not.

    What does not fit at all is the smallest step there is.
    """
    tries = [False, True] if demand.recompute is None else [demand.recompute]
    rows = demand.rows
    while True:
        found = memory_of(demand, device, rows, recompute=tries[0])
        if limit is None or found.total <= limit:
            return found
        if rows > demand.least_rows:
            rows = max(demand.least_rows, rows // 2)
        elif len(tries) > 1:
            tries, rows = tries[1:], demand.rows
        else:
            return found


def with_adapter(shape: ModelShape, rank: int) -> int:
    """Parameters of LoRA matrices of `rank` on all linear layers of a model: four of attention, three beside them."""
    attention = 4 * 2 * shape.hidden
    feed_forward = 3 * (shape.hidden + shape.intermediate)
    return shape.layers * rank * (attention + feed_forward)


def shape_of_config(config: Mapping[str, Any], weight_bytes: int) -> ModelShape | None:
    """From a transformers `config.json` and the bytes of its safetensors; None where it does not say."""
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {**config, **text}
    hidden = _whole(config, "hidden_size", "n_embd", "dim", "d_model")
    layers = _whole(config, "num_hidden_layers", "n_layer", "n_layers")
    if hidden is None or layers is None or weight_bytes <= 0:
        return None
    stored = {"float32": 4, "float16": 2, "bfloat16": 2}.get(
        str(config.get("dtype") or config.get("torch_dtype") or "float32"), 4
    )
    return ModelShape(
        parameters=weight_bytes // stored,
        hidden=hidden,
        layers=layers,
        intermediate=_whole(config, "intermediate_size", "n_inner", "hidden_dim") or 4 * hidden,
        vocabulary=_whole(config, "vocab_size") or 0,
        stored_bytes=stored,
        positions=_whole(config, "max_position_embeddings", "n_positions", "n_ctx") or 10**9,
    )


def llama_shape(hidden: int, layers: int, vocabulary: int) -> ModelShape:
    """The causal model that pretraining makes: tied tables, a gated feed-forward of three times the width."""
    each = 4 * hidden * hidden + 3 * hidden * 3 * hidden + 2 * hidden
    return ModelShape(layers * each + vocabulary * hidden + hidden, hidden, layers, 3 * hidden, vocabulary)


def _whole(config: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return None
