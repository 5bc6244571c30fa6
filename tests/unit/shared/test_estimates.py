"""Memory of a training run by the formulas, checked by hand."""

from __future__ import annotations

import pytest

from shared.contracts.estimates import (
    RUNTIME_BYTES,
    Demand,
    ModelShape,
    fitting,
    llama_shape,
    memory_of,
    shape_of_config,
    with_adapter,
)

GIB = 2**30
SHAPE = ModelShape(parameters=1000, hidden=10, layers=2, intermediate=30, vocabulary=20, stored_bytes=2)


def demand(**changes: object) -> Demand:
    base: dict[str, object] = {"shape": SHAPE, "trainable": 400, "rows": 8, "length": 5, "least_rows": 1}
    return Demand(**{**base, "held": 1.0, **changes})  # type: ignore[arg-type]


def test_each_part_is_what_its_formula_says() -> None:
    found = memory_of(demand(logits=7), "cpu", 8, recompute=False)
    assert (found.weights, found.gradients, found.optimizer) == (4000, 1600, 3200)
    assert found.activations == 8 * 5 * 2 * (9 * 10 + 4 * 30) * 4 + 7 * 20 * 12
    assert found.total == 4000 + 1600 + 3200 + found.activations + RUNTIME_BYTES["cpu"]
    assert found.told()["total"] == found.total


def test_a_gpu_keeps_weights_as_they_are_stored_unless_the_way_wants_float32() -> None:
    assert memory_of(demand(), "cuda", 1, recompute=False).weights == 2000
    assert memory_of(demand(float32=True), "cuda", 1, recompute=False).weights == 4000


def test_recomputing_keeps_one_input_a_layer_and_one_layer() -> None:
    found = memory_of(demand(), "cpu", 1, recompute=True)
    assert found.activations == 5 * (2 * 10 + 9 * 10 + 4 * 30) * 4


def test_what_is_measured_over_the_formulas_is_in_the_estimate_and_not_in_the_least() -> None:
    plain, held = (memory_of(demand(held=h), "cpu", 8, recompute=False) for h in (1.0, 1.5))
    assert held.least == plain.least == plain.total
    assert held.total - plain.total == plain.activations // 2


def big(**changes: object) -> Demand:
    """Eight rows of a model whose activations are about 1.03 GiB a row."""
    shape = llama_shape(1024, 16, 32_000)
    return demand(shape=shape, trainable=0, length=1024, **changes)


def test_as_many_rows_are_computed_at_once_as_fit() -> None:
    base = memory_of(big(), "cpu", 0, recompute=False).total
    row = memory_of(big(), "cpu", 1, recompute=False).total - base
    assert fitting(big(), "cpu", base + 8 * row).rows_at_once == 8
    assert fitting(big(), "cpu", base + 5 * row).rows_at_once == 4
    assert fitting(big(), "cpu", None).rows_at_once == 8


def test_activations_are_computed_twice_only_where_one_row_would_not_fit() -> None:
    base = memory_of(big(), "cpu", 0, recompute=False).total
    row = memory_of(big(), "cpu", 1, recompute=False).total - base
    assert not fitting(big(recompute=None), "cpu", base + row).recompute
    assert fitting(big(recompute=None), "cpu", base + row // 2).recompute
    over = fitting(big(recompute=False), "cpu", base)
    assert (over.rows_at_once, over.recompute, over.total > base) == (1, False, True)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {
                "hidden_size": 64,
                "num_hidden_layers": 3,
                "intermediate_size": 128,
                "vocab_size": 500,
                "dtype": "bfloat16",
            },
            ModelShape(1000, 64, 3, 128, 500, 2),
        ),
        ({"n_embd": 64, "n_layer": 3, "vocab_size": 500}, ModelShape(500, 64, 3, 256, 500, 4)),
        (
            {"text_config": {"hidden_size": 8, "num_hidden_layers": 1}, "vocab_size": 9},
            ModelShape(500, 8, 1, 32, 9, 4),
        ),
    ],
)
def test_shapes_come_from_configurations_of_any_family(
    config: dict[str, object], expected: ModelShape
) -> None:
    assert shape_of_config(config, 2000) == expected


@pytest.mark.parametrize("config", [{}, {"hidden_size": 64}, {"hidden_size": "wide", "num_hidden_layers": 2}])
def test_a_configuration_that_says_too_little_has_no_shape(config: dict[str, object]) -> None:
    assert shape_of_config(config, 2000) is None


def test_an_adapter_is_a_small_part_of_its_base() -> None:
    shape = llama_shape(2048, 24, 50_000)
    assert 0.005 < with_adapter(shape, 16) / shape.parameters < 0.03
