"""Ending a run early and keeping its best weights: what every way of training is asked with. Pure.

A look is what a run does at the end of an epoch and of itself: it measures `valid_loss` on held-out rows.
"""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from pydantic import Field

from shared.contracts.parameters import Auto
from shared.errors import InvalidInput

Patience = Annotated[int, Field(ge=1, le=1000)] | None
KeepBest = bool | Auto

EARLY_STOPPING_PATIENCE: Any = Field(
    None,
    description="Looks at held-out rows in a row without a lower `valid_loss`, after which the run ends; left out, it "
    "runs to its end.",
)
KEEP_BEST: Any = Field(
    "auto",
    description="Whether the weights of the look with the lowest `valid_loss` are kept, and not the last ones; "
    "`best_step` in the result says whose they are. Auto is true where held-out rows are watched.",
)


class StopsEarly(Protocol):
    """Hyperparameters that have both."""

    @property
    def early_stopping_patience(self) -> int | None: ...

    @property
    def keep_best(self) -> bool | str | None: ...


def asks_for_looks(given: StopsEarly) -> str | None:
    """The name of a hyperparameter that means nothing without held-out rows."""
    if given.early_stopping_patience is not None:
        return "early_stopping_patience"
    return "keep_best" if given.keep_best is True else None


def check_watched(given: StopsEarly, watched: bool, *, param: str = "hyperparameters") -> None:
    """Raise InvalidInput where what is asked for needs held-out rows and there are none."""
    name = asks_for_looks(given)
    if name is not None and not watched:
        raise InvalidInput(
            f"{name} is judged by held-out rows, and the job has none; give it a validation_file, or leave {name} out",
            param=f"{param}.{name}",
        )
