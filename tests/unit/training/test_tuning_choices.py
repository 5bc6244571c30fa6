"""How a run computes is chosen by arithmetic, with a reason, and what cannot be had is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from services.training.hyperparameters import SftHyperparameters, parse
from services.training.tuning.choices import Choices, Machine, Shape, choose
from shared.errors import InvalidInput

GIB = 2**30
CPU = Machine("cpu", bf16=False, memory=4 * GIB, compiler=True)
GPU = Machine("cuda", bf16=True, memory=60 * GIB, compiler=True)
SMALL, LARGE = Shape(4, 128, 384), Shape(32, 4096, 14_336)


def chosen(
    lengths: list[int],
    *,
    shape: Shape = SMALL,
    machine: Machine = CPU,
    batch_size: int = 8,
    unpackable: str | None = None,
    **wanted: Any,
) -> Choices:
    return choose(parse(SftHyperparameters, wanted), shape, machine, lengths, batch_size, unpackable)


def test_like_lengths_are_not_packed_and_mixed_ones_are() -> None:
    assert not chosen([100] * 50).packing
    mixed = chosen([4, 400] * 4)
    assert mixed.packing
    assert "% full" in mixed.reasons["packing"]
    assert mixed.capacity == 8 * 202


def test_a_pack_holds_the_longest_sequence() -> None:
    assert chosen([4] * 99 + [400], packing=True, batch_size=2).capacity == 400


def test_what_was_asked_for_is_done_or_refused_with_the_reason() -> None:
    assert chosen([9] * 9, packing=True).packing
    assert not chosen([4, 400] * 4, packing=False).packing
    assert not chosen([4, 400] * 4, unpackable="its attention caps logits").packing
    with pytest.raises(InvalidInput, match="its attention caps logits") as caught:
        chosen([4, 400], packing=True, unpackable="its attention caps logits")
    assert caught.value.param == "hyperparameters.packing"
    with pytest.raises(InvalidInput, match="no C\\+\\+ compiler"):
        chosen([9], compile=True, machine=Machine("cpu", False, GIB, compiler=False))


def test_a_step_that_does_not_fit_is_computed_in_equal_parts() -> None:
    one = LARGE.token_bytes(2, checkpointing=False) * 4096
    got = chosen([4096] * 50, shape=LARGE, machine=Machine("cuda", True, 3.5 * one, True), batch_size=12)
    assert (got.parts, got.rows, got.checkpointing) == (4, 3, False)
    assert "3 sequences of 4096 tokens fit" in got.reasons["gradient_accumulation_steps"]


def test_activations_are_computed_twice_only_where_one_sequence_would_not_fit() -> None:
    one = LARGE.token_bytes(2, checkpointing=False) * 4096
    got = chosen([4096] * 50, shape=LARGE, machine=Machine("cuda", True, 0.9 * one, True), batch_size=8)
    assert got.checkpointing
    assert got.parts < 8
    off = chosen(
        [4096], shape=LARGE, machine=Machine("cuda", True, 0.9 * one, True), gradient_checkpointing=False
    )
    assert not off.checkpointing
    assert off.parts == 8


def test_a_gpu_computes_in_bfloat16_where_it_can_and_a_cpu_in_float32() -> None:
    assert chosen([9], machine=GPU).precision == "bfloat16"
    assert chosen([9], machine=Machine("cuda", False, GIB, True)).precision == "float32"
    assert chosen([9]).precision == "float32"


def test_processes_take_equal_shares() -> None:
    two = Machine("cuda", True, 60 * GIB, True, processes=2)
    assert chosen([9] * 20, machine=two, batch_size=6).rows == 3
    with pytest.raises(InvalidInput, match="among 2 processes"):
        chosen([9], machine=two, batch_size=7)
    with pytest.raises(InvalidInput, match="2 equal parts"):
        chosen([9], machine=two, batch_size=6, gradient_accumulation_steps=2)


def test_a_resumed_run_keeps_its_order_with_fewer_processes() -> None:
    two = chosen([4, 400] * 4, packing=True, machine=Machine("cpu", False, GIB, True, processes=2))
    alone = chosen([9] * 9).kept(two.state())
    assert (alone.packing, alone.capacity, alone.rows) == (True, two.capacity, two.rows)
    assert alone.parts * alone.processes == two.parts * two.processes
    assert chosen([9] * 9).kept({}).state() == chosen([9] * 9).state()


def test_all_of_it_is_told_with_reasons() -> None:
    message, facts = chosen([4, 400] * 4, compile=False).told(ours_loss=True)
    assert message.startswith("computing in float32, packed (")
    assert {"packing", "precision", "gradient_accumulation_steps", "gradient_checkpointing", "loss"} <= set(
        facts["reasons"]
    )
