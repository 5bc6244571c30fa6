"""TRL's SFTTrainer with our schedule, frames, stop requests and atomic checkpoints. Knows no files of rows."""

from __future__ import annotations

from trl import SFTTrainer

from services.training.reporting import Plan, Reporting

__all__ = ["Plan", "ReportingTrainer"]


class ReportingTrainer(Reporting, SFTTrainer):  # type: ignore[misc]  # TRL is untyped
    """Supervised fine-tuning of rows that are already in order."""
