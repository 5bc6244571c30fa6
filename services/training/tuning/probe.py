"""Whether a part of a step really fits into a GPU's memory: tried before the first one, and made smaller until so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from services.training.run import Run
from services.training.tuning.choices import Choices
from shared.errors import HeliuError

# AdamW's two running means, which the first step makes.
_MEANS_BYTES = 8


def fitted(run: Run, chosen: Choices, longest: int, fits: Callable[[Choices], bool]) -> Choices:
    """`chosen`, or what is left of it when parts are halved until they fit. Raises HeliuError `out_of_memory`."""
    while not fits(chosen):
        smaller = chosen.smaller(longest)
        if smaller is None:
            raise HeliuError(
                f"not even one sequence of {longest} tokens fits into this GPU's memory; lower max_length, or tune "
                "with LoRA or a quantized base",
                code="out_of_memory",
            )
        run.event(
            f"a part of {chosen.rows} rows did not fit into memory; now each step is computed in {smaller.parts} parts"
            + (", activations twice" if smaller.checkpointing else ""),
            "warn",
            smaller.state(),
        )
        chosen = smaller
    return chosen


def fits(model: Any, chosen: Choices, longest: int, trainable: int) -> bool:
    """One part of the greatest size, forward and back, with room taken for the optimizer; nothing is left of it."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    shape = (1, chosen.capacity) if chosen.packing else (chosen.rows, longest)
    device, training = model.device, model.training
    model.train()
    if chosen.checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            held = torch.empty(trainable * _MEANS_BYTES, dtype=torch.uint8, device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=chosen.precision == "bfloat16"):
                ids = torch.zeros(shape, dtype=torch.int64, device=device)
                states = base.base_model(input_ids=ids, use_cache=False).last_hidden_state
            states.float().sum().backward()
            del held, states
    except torch.OutOfMemoryError:
        return False
    finally:
        model.zero_grad(set_to_none=True)
        if chosen.checkpointing:
            base.gradient_checkpointing_disable()
        model.train(training)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True
