"""Which look at held-out rows was the best so far, and whether more are worth waiting for. Pure; knows no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Looks:
    """Fed with every look of a run in their order; `patience` is None where the run goes on to its end anyhow.

    `step` and `figures` are of the best look, `since` how many have come after it.
    """

    patience: int | None = None
    step: int | None = None
    figures: dict[str, float] = field(default_factory=dict)
    since: int = 0

    def add(self, step: int, figures: Mapping[str, float]) -> bool:
        """A look after `step` steps, with its `valid_loss`; True when it is the best so far."""
        if self.step is None or figures["valid_loss"] < self.figures["valid_loss"]:
            self.step, self.figures, self.since = step, dict(figures), 0
            return True
        self.since += 1
        return False

    @property
    def over(self) -> bool:
        """Whether patience has ended."""
        return self.patience is not None and self.since >= self.patience

    def why(self, step: int, planned: int) -> str:
        """In words, of a run that ends after `step` of `planned` steps."""
        best = self.figures["valid_loss"]
        return (
            f"ends early, at step {step} of {planned}: valid_loss was {best:.4g} at step {self.step}, and {self.since} "
            f"look{'s' if self.since > 1 else ''} at held-out rows since then found none lower"
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, for `restore`; numbers and strings alone."""
        return {"step": self.step, "figures": self.figures, "since": self.since}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step, self.figures, self.since = state["step"], dict(state["figures"]), state["since"]
