"""Registered models: their names, the stages of a version, the rules of a gate, and who gets which version. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.contracts.base import Message
from shared.contracts.task import TaskRoute
from shared.errors import InvalidInput

PREFIX = "registry:"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# Parts that a share of the callers is counted in.
WHOLE = 10_000
MAX_VERSIONS = 1000
# Of a canary's answers the newest so many are judged.
JUDGED = 10_000

Stage = Literal["candidate", "staging", "production", "archived"]
Action = Literal["stage", "archive", "promote", "canary", "retire", "restore"]
Outcome = Literal["passed", "failed", "inconclusive", "waived", "not_applicable"]
Verdict = Literal["passed", "failed", "inconclusive"]
Approval = Literal["none", "required"]

# What a move makes of a version's stage; `gateway.registry_legal` says the same where it is enforced. A version that
# was followed in production is retired, and restored by a roll-back.
LEGAL: Mapping[tuple[Action, Stage], Stage] = {
    ("stage", "candidate"): "staging",
    ("stage", "archived"): "staging",
    ("archive", "candidate"): "archived",
    ("archive", "staging"): "archived",
    ("promote", "staging"): "production",
    ("canary", "staging"): "staging",
    ("retire", "production"): "archived",
    ("restore", "archived"): "production",
    ("restore", "staging"): "production",
}
# What may be let through by name, until a day. That training and serving agree, that what is tested was not trained
# on, and that both models answered the same questions are what all other figures stand on.
WAIVABLE = ("items", "quality", "improvement", "baseline", "baseline_model", "data_gate", "slice:*")


class GateRules(BaseModel):
    """What a version must show before it answers anybody."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    eval_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="the eval (`/v1/evals`) whose runs are compared; without one no quality is asked for",
    )
    margin: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="how far below 0 the 95% interval of the difference to production may begin, overall",
    )
    slice_margin: float = Field(default=0.05, ge=0, le=1, description="the same in every slice")
    slices: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(
        default=None,
        max_length=32,
        description="names of slices to look at; all that the items have without it",
    )
    min_items: int = Field(
        default=100, ge=2, le=1_000_000, description="fewer pairs than this are inconclusive, and block"
    )
    min_slice_items: int = Field(default=20, ge=2, le=1_000_000, description="the same for each slice")
    small_slices: Literal["block", "tell"] = Field(
        default="block", description="whether a slice with fewer items blocks, or is told alone"
    )
    require_improvement: bool = Field(
        default=False,
        description="whether the difference to production must be above 0 by its whole interval",
    )
    baseline_score: float | None = Field(
        default=None, ge=0, le=1, description="a score that the candidate's interval must lie above"
    )
    baseline_model: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="a trivial model whose newest run of the eval the candidate must beat, pair by pair",
    )
    parity: Literal["required", "off"] = Field(
        default="required", description="whether trainer and engine must have agreed, of models trained here"
    )
    data_gate: Literal["required", "where_known", "off"] = Field(
        default="required",
        description="whether the training data, and that of each model it stands on, must be a version whose gate "
        "passed; `where_known` lets through what was trained on a file or brought in from elsewhere, of whose data "
        "nothing is known",
    )
    leakage: Literal["none", "off"] = Field(
        default="none",
        description="whether neither a question of the held-out split may stand in the training split, nor the eval "
        "ask rows that the model learned from",
    )
    valid_hours: int = Field(default=168, ge=1, le=8760, description="how long a decision may be acted on")

    @model_validator(mode="after")
    def _quality_needs_an_eval(self) -> Self:
        for name in ("require_improvement", "baseline_score", "baseline_model"):
            if getattr(self, name) and self.eval_id is None:
                raise ValueError(f"{name} needs an eval_id")
        return self


class StopWhen(BaseModel):
    """What a canary's own answers must not come to; of batches and of the background none is counted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    error_rate_above: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="share of its answers that failed; those given up by clients do not count",
    )
    latency_p95_above_ms: float | None = Field(
        default=None, gt=0, description="95% of its answers are whole within this time"
    )
    first_token_p95_above_ms: float | None = Field(
        default=None, gt=0, description="95% of its answers begin within this time"
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError(f"give one of {', '.join(type(self).model_fields)}")
        return self


class CanaryRule(BaseModel):
    """When a version that gets a share of the callers loses it by itself."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    share: float | None = Field(
        default=None, gt=0, lt=1, description="of the callers, for a canary that is started without one"
    )
    stop_when: StopWhen
    min_requests: int = Field(
        default=50, ge=1, le=JUDGED, description="fewer answers since it was started than this stop nothing"
    )


def waivable(check: str) -> bool:
    """Whether the check of this name may be waived."""
    return check in WAIVABLE or check.startswith("slice:")


class ReleaseUsed(Message):
    """The version of a registered model that a request is answered by."""

    name: str
    version: int

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def model(self) -> str:
        """What an answer names as its model, and what asks for this version alone."""
        return PREFIX + self.label

    @property
    def metadata(self) -> dict[str, Any]:
        """What the ledger keeps."""
        return {"registry": self.name, "registry_version": self.version}


class RegisteredRoute(TaskRoute):
    """The same of a registered model, with the model of each version that its callers may get."""

    models: tuple[tuple[int, str], ...]

    def model_of(self, version: int) -> str | None:
        return dict(self.models).get(version)


def shares(production: int, canary: int | None, share: int) -> tuple[tuple[int, int], ...]:
    """(version, weight) of those that get callers, the versions ascending; `share` is in parts of WHOLE."""
    found = [(production, WHOLE - share)]
    if canary is not None:
        found.append((canary, share))
    return tuple(sorted(found))


def registered_name(model: Any) -> tuple[str, int | None] | None:
    """(name, version or None) of `registry:NAME` or `registry:NAME@VERSION`; None for others. Raises InvalidInput."""
    if not isinstance(model, str) or not model.startswith(PREFIX):
        return None
    name, at, version = model.removeprefix(PREFIX).partition("@")
    if not NAME.fullmatch(name) or (
        at and not (version.isascii() and version.isdigit() and len(version) < 8)
    ):
        raise InvalidInput(
            f"{model[:120]!r} is no registered model; write registry:NAME, or registry:NAME@3 for its version 3",
            param="model",
        )
    return name, int(version) if at else None
