"""Searches for hyperparameters: what may vary, what is measured, and the job that hands the trials out. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import JobContract, Message
from shared.contracts.training import LIGHT_QUEUE
from shared.jobs import Status

Direction = Literal["minimize", "maximize"]
Sampler = Literal["tpe", "random", "grid"]
Pruner = Literal["median", "hyperband", "none"]
Parallel = Annotated[int, Field(ge=1, le=64)] | Literal["auto"]

MAX_TRIALS = 1000
MAX_DIMENSIONS = 20
MAX_CHOICES = 100
DEFAULT_TRIALS = 20
# Everything that is better when it is smaller; all else is better when it is larger.
_SMALLER = ("loss", "mse", "mae", "perplexity")
_OF_TOKENS = ("valid_loss", "valid_mean_token_accuracy", "train_loss", "train_mean_token_accuracy")
_BY_KIND: Mapping[str, tuple[str, ...]] = {
    "training.pretrain": _OF_TOKENS,
    "training.fine_tune": _OF_TOKENS,
    "training.preferences": (
        "valid_reward_accuracy",
        "valid_reward_margin",
        "valid_preference_accuracy",
        "valid_loss",
        "train_loss",
    ),
    "training.train_encoder": ("valid_recall_at_1", "valid_mrr", "valid_loss", "train_loss"),
}
_BY_HEAD: Mapping[str, tuple[str, ...]] = {
    "single_label": ("valid_accuracy", "valid_macro_f1"),
    "multi_label": ("valid_micro_f1", "valid_macro_f1", "valid_exact_match"),
    "regression": ("valid_mse", "valid_mae", "valid_spearman"),
    "rank_pairwise": ("valid_ndcg", "valid_mrr"),
    "rank_pointwise": ("valid_ndcg", "valid_mrr"),
}


class FloatRange(Message):
    """A number from `low` to `high`, both included."""

    type: Literal["float"]
    low: Annotated[float, Field(ge=-1e15, le=1e15)]
    high: Annotated[float, Field(ge=-1e15, le=1e15)]
    log: bool = Field(False, description="Drawn evenly over the orders of magnitude.")
    step: Annotated[float, Field(gt=0)] | None = Field(default=None, description="Only every so much.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _check_ends(self.low, self.high, self.log, self.step is not None)
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        return (self.low, self.high)

    @property
    def values(self) -> tuple[Any, ...] | None:
        """All of them; None where there are too many to count."""
        if self.step is None:
            return None
        steps = min((self.high - self.low) / self.step, float(MAX_TRIALS))
        return tuple(self.low + i * self.step for i in range(math.floor(steps + 1e-9) + 1))


class IntRange(Message):
    """A whole number from `low` to `high`, both included."""

    type: Literal["int"]
    low: Annotated[int, Field(ge=-(2**53), le=2**53)]
    high: Annotated[int, Field(ge=-(2**53), le=2**53)]
    log: bool = Field(False, description="Drawn evenly over the orders of magnitude.")
    step: int = Field(1, ge=1, description="Only every so much.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _check_ends(self.low, self.high, self.log, self.step != 1)
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        return (self.low, self.low + (self.high - self.low) // self.step * self.step)

    @property
    def values(self) -> tuple[Any, ...] | None:
        return tuple(range(self.low, self.high + 1, self.step)[: MAX_TRIALS + 1])


class Choices(Message):
    """One of `choices`, which may be of any JSON type and have no order."""

    type: Literal["categorical"]
    choices: tuple[Any, ...] = Field(min_length=2, max_length=MAX_CHOICES)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        seen = set()
        for one in self.choices:
            text = canonical(one)
            if text in seen:
                raise ValueError(f"the choice {text[:80]} stands twice")
            seen.add(text)
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        return self.choices

    @property
    def values(self) -> tuple[Any, ...] | None:
        return self.choices


Range = Annotated[FloatRange | IntRange | Choices, Field(discriminator="type")]


class Dimension(Message):
    """One thing that varies: `path` in the body of the training job, and where that lands in the job's contract.

    A number lands as it is at `place` (dotted). Each choice has its own `patches`: values by place.
    """

    path: str
    range: Range
    place: str | None = None
    patches: tuple[dict[str, Any], ...] = ()

    def patch(self, value: Any) -> dict[str, Any]:
        """What `value` sets in the contract, by dotted place."""
        if isinstance(self.range, Choices):
            return self.patches[self.index(value)]
        assert self.place is not None
        return {self.place: value}

    def index(self, value: Any) -> int:
        """Which of the choices `value` is: 1, 1.0 and true are three."""
        assert isinstance(self.range, Choices)
        return [canonical(one) for one in self.range.choices].index(canonical(value))


class RunSearch(JobContract):
    """Hand out trials as training jobs, learn from their ends, and register the best one's model."""

    kind: ClassVar[str] = "training.search"
    queue: ClassVar[str] = LIGHT_QUEUE
    id_prefix: ClassVar[str] = "search-"
    # It comes back once for each trial and may live for days: what befalls its workers is not its fault.
    max_attempts: ClassVar[int] = 10
    max_crashes: ClassVar[int] = 20
    stall_limit_s: ClassVar[float | None] = 900.0

    name: str | None = None
    # As it was asked for, to be shown; and as a contract of kind `job_kind` on `job_queue`, which is varied.
    asked: dict[str, Any]
    job_kind: str
    job_queue: str
    job: dict[str, Any]
    space: tuple[Dimension, ...] = Field(min_length=1, max_length=MAX_DIMENSIONS)
    metric: str
    direction: Direction
    trials: int = Field(ge=1, le=MAX_TRIALS)
    parallel: Parallel = "auto"
    sampler: Sampler = "tpe"
    pruner: Pruner = "median"
    pruner_startup_trials: int = Field(4, ge=1, le=MAX_TRIALS)
    pruner_warmup: float = Field(0.2, ge=0, lt=1)
    seed: int = Field(0, ge=0, le=2**31 - 1)
    max_seconds: float | None = Field(default=None, ge=1)

    @property
    def sign(self) -> int:
        """1 where a larger value is better, else -1."""
        return 1 if self.direction == "maximize" else -1


def natural_direction(metric: str) -> Direction:
    """Which way a metric is better, by its name."""
    return "minimize" if metric.endswith(_SMALLER) else "maximize"


def metrics_of(kind: str, payload: Mapping[str, Any]) -> tuple[str, ...]:
    """What a training job of this kind and payload tells of itself, the usual objective first; () for no such kind.

    Those of held-out rows begin with `valid_`.
    """
    if kind == "training.train_head":
        return (*_BY_HEAD[payload["choice"]["head"]], "valid_loss", "train_loss")
    if kind == "training.train_multi_task":
        of_tasks = [
            f"{one['name']}/{metric}"
            for one in payload["parts"]
            for metric in (*_BY_HEAD[one["head"]], "valid_loss")
        ]
        return ("valid_loss", *of_tasks, "train_loss")
    return _BY_KIND.get(kind, ())


def final_value(metric: str, result: Mapping[str, Any], last: float | None) -> float | None:
    """The objective of a run that has ended: what was measured of the finished model, else what was told last."""
    task, _, name = metric.rpartition("/")
    told: Any = result.get("tasks", {}).get(task, {}) if task else result
    measured = told.get("held_out")
    found = measured.get(name.removeprefix("valid_")) if isinstance(measured, Mapping) else None
    if name.startswith("valid_") and (value := _number(found)) is not None:
        return value
    return _number(result.get(metric, last))


def combinations(ranges: Sequence[FloatRange | IntRange | Choices]) -> int | None:
    """How many points a grid over them has; None where one of them is continuous."""
    count = 1
    for one in ranges:
        if one.values is None:
            return None
        count *= len(one.values)
    return count


def trial_state(stored: str, job_state: str) -> str:
    """A trial's state in words: what was settled, else how its job stands."""
    if stored != "open":
        return stored
    job = Status(job_state)
    if job in (Status.QUEUED, Status.PAUSED, Status.CANCELLED):
        return job.value
    return "running" if job is Status.LEASED else "failed"


def canonical(value: Any) -> str:
    """Text that is equal for equal JSON values and for no others."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _check_ends(low: float, high: float, log: bool, stepped: bool) -> None:
    if low >= high:
        raise ValueError(f"low is {low} and high is {high}; low must be the smaller")
    if log and low <= 0:
        raise ValueError(f"low is {low}; on a log scale it must be over 0")
    if log and stepped:
        raise ValueError("log and step do not go together; leave one of them out")
