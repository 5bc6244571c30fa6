"""A part that does not fit is made smaller, step by step, and a try leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from services.training.run import Run
from services.training.tuning.choices import Choices
from services.training.tuning.probe import fits, fitted
from shared.errors import HeliuError

PADDED = Choices(False, 1, 6, 0, False, "float32", False, 1, {})
PACKED = Choices(True, 1, 1, 400, False, "float32", False, 1, {})


def _tried(chosen: Choices, enough: int) -> tuple[list[Choices], list[dict[str, Any]]]:
    """What is tried when the `enough`th try fits."""
    seen: list[Choices] = []
    frames: list[dict[str, Any]] = []

    def try_it(one: Choices) -> bool:
        seen.append(one)
        return len(seen) == enough

    assert fitted(Run(frames.append), chosen, 100, try_it) == seen[-1]
    return seen, frames


def test_parts_shrink_by_divisors_and_activations_are_computed_twice_at_last() -> None:
    seen, frames = _tried(PADDED, 4)
    assert [(c.rows, c.parts, c.checkpointing) for c in seen] == [
        (6, 1, False),
        (3, 2, False),
        (1, 6, False),
        (1, 6, True),
    ]
    assert [f["level"] for f in frames] == ["warn"] * 3
    assert "in 2 parts" in frames[0]["message"]


def test_packs_shrink_while_the_longest_sequence_fits() -> None:
    seen, _ = _tried(PACKED, 4)
    assert [(c.capacity, c.parts, c.checkpointing) for c in seen] == [
        (400, 1, False),
        (200, 2, False),
        (100, 4, False),
        (100, 4, True),
    ]


def test_a_sequence_that_never_fits_is_told() -> None:
    with pytest.raises(HeliuError, match="one sequence of 100 tokens") as caught:
        fitted(Run(lambda _: None), PADDED, 100, lambda _: False)
    assert caught.value.code == "out_of_memory"


def test_a_try_changes_nothing(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    for chosen in (PADDED, PACKED, Choices(False, 1, 2, 0, True, "float32", False, 1, {})):
        assert fits(model, chosen, 40, 1000)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
    assert not model.training

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.base_model, "forward", full)
    assert not fits(model, PADDED, 40, 1000)
