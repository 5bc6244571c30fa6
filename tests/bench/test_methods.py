"""The table of all ways of training: what a row shows of a job's result, and that none is left out."""

from __future__ import annotations

import inspect

import pytest

from services.gateway.training.methods import BODIES
from tests.bench import methods
from tests.bench.methods import METHODS, Row, row


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (
            {
                "held_out": {"loss": 1.0, "accuracy": 0.9},
                "baseline": {"name": "majority class", "accuracy": 0.1},
            },
            Row("m", "accuracy", "majority class", 0.1, 0.9, "7 rows", 2.0),
        ),
        (
            {
                "held_out": {"perplexity": 8.0, "tokens": 1234.0},
                "baseline": {"name": "before", "perplexity": 99.0},
            },
            Row("m", "perplexity", "before", 99.0, 8.0, "1,234 tokens", 2.0),
        ),
        (
            {
                "held_out": {"preference_accuracy": 0.8, "pairs": 20.0},
                "baseline": {"name": "before", "preference_accuracy": 0.5},
            },
            Row("m", "preference_accuracy", "before", 0.5, 0.8, "20 pairs", 2.0),
        ),
    ],
)
def test_a_row_shows_the_figure_that_tells_most_beside_its_baseline(
    told: dict[str, object], shown: Row
) -> None:
    assert row("m", {"held_out_rows": 7, **told}, 2.0) == shown


def test_every_way_of_training_that_the_gateway_takes_is_in_the_table() -> None:
    source = inspect.getsource(methods)
    types = {body.model_fields["type"].annotation.__args__[0] for body in BODIES}  # type: ignore[union-attr]
    assert len(types) >= 7
    assert {one for one in types if f'"{one}"' not in source} == set()
    assert len(METHODS) >= len(types)
