"""What comes of a trained part: its figures on held-out rows beside the baseline's, and a folder that can be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.training.heads.model import check_parity, save_head
from services.training.heads.part import Part
from services.training.heads.scoring import MAIN
from services.training.run import Run


def facts_of(part: Part) -> dict[str, Any]:
    """What is known of a part before it is trained."""
    return {
        "head": part.choice.head,
        "method": part.choice.method,
        "loss": part.choice.named_loss,
        "rows": len(part.training),
        "held_out_rows": len(part.held_out),
    }


def measured(run: Run, part: Part, step: int) -> dict[str, Any]:
    """`held_out` and `baseline` over all held-out rows, told as an event too. Raises Stopped when asked to stop."""
    figures, loss = part.evaluate(run, step)
    baseline = part.yardstick.baseline(part.held_out.examples)
    main, of = MAIN[part.choice.head], f" of {part.name}" if part.name else ""
    run.event(
        f"held out{of}: {main} {figures[main]:.3f}, and {baseline[main]:.3f} by {baseline['name']}",
        data={"held_out": figures, "baseline": baseline, **({"task": part.name} if part.name else {})},
    )
    return {"held_out": {"loss": loss, **figures}, "baseline": baseline}


def saved(part: Part, folder: Path) -> dict[str, Any]:
    """Write the folder and read it back; what `info.parity` says.

    Raises HeliuError `parity_check_failed`. A trunk under LoRA must have been merged before.
    """
    told = {"head": part.choice.head, "labels": list(part.labels), "loss": part.choice.named_loss}
    save_head(part.model, folder, told, *part.scale)
    return check_parity(part.model, folder, *part.scale)
